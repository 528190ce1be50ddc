"""``RedisStore``: a session in a hash of a Redis (or Valkey) server (extra ``redis``)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..errors import StoreError, StoreUnavailable
from ..redaction import Secret
from ..system.warnings_once import warn_once
from .contract import State
from .engine import Engine, Held, Row, Seen, asked_for, checked_name, fleet_key
from .lease import LeasedStore

# Every script gets one key and starts with the hash's fields and the server's clock,
# in milliseconds. One key, so that a cluster finds it.
_START = """
local key, f, t = KEYS[1], {}, redis.call('TIME')
local names = {'lineage', 'generation', 'owner', 'until', 'holder', 'begun_by'}
for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do f[names[i]] = value end
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function is_seen(lineage, generation)
  return (f.lineage or '') == lineage and (f.generation or '0') == generation
end
local leased = f.owner and tonumber(f['until']) > now
"""

_TAKE = """
local owner, holder, length, compare, lineage, generation = unpack(ARGV)
if compare == '1' and not is_seen(lineage, generation) then return {'moved'} end
if leased and f.owner ~= owner then return {'held', f.holder, f['until'] - now} end
redis.call('HSET', key, 'owner', owner, 'holder', holder, 'until', now + length)
return {'taken'}
"""

_BEGIN = """
local owner, length, lineage, generation = unpack(ARGV)
if not leased or f.owner ~= owner or not is_seen(lineage, generation) then return 0 end
redis.call('HSET', key, 'until', now + length)
if not f.begun_by then redis.call('HSET', key, 'begun_by', owner, 'begun_at', now) end
return 1
"""

_EXTEND = """
local owner, holder, length, lineage, generation = unpack(ARGV)
if leased and f.owner ~= owner or not is_seen(lineage, generation) then return 0 end
redis.call('HSET', key, 'owner', owner, 'holder', holder, 'until', now + length)
return 1
"""

_RELEASE = """
local owner, keep_mark = unpack(ARGV)
if f.owner == owner then redis.call('HDEL', key, 'owner', 'holder', 'until') end
if f.begun_by == owner and keep_mark == '0' then redis.call('HDEL', key, 'begun_by', 'begun_at') end
return 1
"""

_WRITE = """
local seen_lineage, seen_generation, owner, lineage, generation, key_id, state = unpack(ARGV)
if not is_seen(seen_lineage, seen_generation) then return 0 end
redis.call('HSET', key, 'lineage', lineage, 'generation', generation,
  'key_id', key_id, 'state', state)
redis.call('HDEL', key, 'begun_by', 'begun_at')
if f.owner == owner then redis.call('HDEL', key, 'owner', 'holder', 'until') end
return 1
"""

# What a server says that is all right again later: by redis-py's classes for it, not all of
# which every release has, and by its own words.
_PASSING = (
    *("ConnectionError", "TimeoutError", "ReadOnlyError", "OutOfMemoryError"),
    *("ClusterDownError", "MasterDownError", "TryAgainError"),
)
_PASSING_WORDS = ("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY ")


class RedisStore(LeasedStore):
    """Keeps the session in Redis, encrypted, for any number of hosts. Thread-safe.

    ``client_or_url``
        A URL as redis-py takes it (``redis://``, ``rediss://``, ``unix://``), a
        callable that returns one (``FromEnvironment("REDIS_URL")``), or a client
        of redis-py (with TLS, Sentinel or Cluster set up as you like), which
        stays yours to close.
    ``name``
        What the session is called; hosts that give one name share one session.
        It lies in the hash ``requests-silent-refresh:NAME``.
    ``key``
        See :mod:`requests_silent_refresh.keys`: something that every host has.
        There is no default, because the default key file is one machine's own.

    Raises ``ImportError`` without redis-py, ``ValueError`` or ``TypeError`` for a
    URL, a name or a key that is none. Connects when it is first used, and warns
    then where the server may drop tokens: an eviction policy that takes any key,
    or no persistence.

    Pickles to what reopens it, if it was given a callable or a URL without
    password and a key that is not literal; ``TypeError`` else. Compare-and-set and
    lease are Lua scripts on one key (Redis 5 or later);
    :class:`~requests_silent_refresh.stores.lease.LeasedStore` says how the lease
    holds what the contract promises. What a failover of Redis may lose:
    ``docs/fleet.rst``.
    """

    def __init__(self, client_or_url: Any, name: str, key: Any = None) -> None:
        name, source = checked_name(name), fleet_key(key)
        self._redis = _Redis(client_or_url, f"requests-silent-refresh:{name}")
        self._looked = False
        super().__init__(self._redis, name, source)

    def load(self) -> State | None:
        state = super().load()
        if not self._looked:
            self._looked = True
            self._warn_of_dangers()
        return state

    def _warn_of_dangers(self) -> None:
        try:
            found = self._engine.ask(self._redis.dangers)
        except StoreError:
            return
        for danger in found:
            warn_once(danger, stacklevel=3)

    def __reduce__(self) -> Any:
        return type(self), (self._redis.for_pickle(), self.name, self._source)


class _Redis(Engine):
    """The hash ``key`` and the client to get at it."""

    def __init__(self, given: Any, key: str) -> None:
        try:
            import redis.exceptions
        except ImportError:
            raise ImportError(
                "RedisStore needs redis-py: pip install 'requests-silent-refresh[redis]'"
            ) from None
        self._redis = redis
        self._errors = redis.exceptions
        # A URL may hold a password.
        self._given = Secret(given) if isinstance(given, str) else given
        self._key = key
        self._of_parents: list[Any] = []
        self._is_url = isinstance(given, str) or _is_source(given)
        if not self._is_url and not hasattr(given, "eval"):
            raise TypeError(
                "client_or_url is a URL, a callable that returns one, or a client of redis-py, "
                f"not {type(given).__name__}"
            )
        self._client: Any = None if self._is_url else given
        if isinstance(given, str):
            self._client = self._connect(given)

    # -- one round trip each ---------------------------------------------------------

    def read(self) -> Row | None:
        fields = ("lineage", "generation", "key_id", "state")
        found = [_bytes(one) for one in self._connected.hmget(self._key, *fields)]
        if found[0] is None or None in found:
            if found.count(None) == len(found):
                return None  # a lease at most
            raise StoreError(f"the hash {self._key} is not whole: somebody changed it")
        lineage, generation, key_id, state = found
        return Row(lineage.decode(), int(generation), key_id.decode(), state)

    def write(self, row: Row, seen: Seen, owner: str) -> bool:
        return bool(self._run(_WRITE, *seen, owner, *row))

    def take(self, owner: str, holder: str, seconds: float, seen: Seen | None) -> Held | bool:
        compared = ("0", "", 0) if seen is None else ("1", *seen)
        answer = self._run(_TAKE, owner, holder, _ms(seconds), *compared)
        word = _bytes(answer[0])
        if word == b"held":
            who = _bytes(answer[1])
            return Held(None if who is None else who.decode(), float(answer[2]) / 1000)
        return bool(word == b"taken")

    def begin(self, owner: str, seen: Seen, seconds: float) -> bool:
        return bool(self._run(_BEGIN, owner, _ms(seconds), *seen))

    def extend(self, owner: str, holder: str, seconds: float, seen: Seen) -> bool:
        return bool(self._run(_EXTEND, owner, holder, _ms(seconds), *seen))

    def release(self, owner: str, keep_mark: bool = False) -> None:
        self._run(_RELEASE, owner, int(keep_mark))

    def interrupted(self, owner: str) -> float | None:
        by, at = (_bytes(one) for one in self._connected.hmget(self._key, "begun_by", "begun_at"))
        return None if at is None or by == owner.encode() else float(at) / 1000

    def set_aside(self, name: str) -> bool:
        if not self._connected.exists(self._key):
            return False
        self._connected.rename(self._key, f"requests-silent-refresh:{name}")
        return True

    def _run(self, script: str, *arguments: Any) -> Any:
        # Not by its digest: a server that failed over or restarted would not know it.
        return self._connected.eval(_START + script, 1, self._key, *arguments)

    # -- the connection --------------------------------------------------------------

    @property
    def _connected(self) -> Any:
        if self._client is None:
            given = self._given
            url = given.reveal() if isinstance(given, Secret) else given
            self._client = asked_for(url, self._connect)
        return self._client

    def _connect(self, url: str) -> Any:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # Once more at once, for a pooled connection that the server has closed meanwhile.
        return self._redis.Redis.from_url(
            url,
            socket_timeout=self.patience,
            socket_connect_timeout=self.patience,
            retry=Retry(NoBackoff(), 1),
        )

    def disconnect(self) -> None:
        # A client that we were given is in other people's hands as well; its pool drops
        # a connection that broke by itself.
        if self._is_url:
            client, self._client = self._client, None
            if client is not None:
                client.connection_pool.disconnect()

    def after_fork_in_child(self) -> None:
        # Kept, so that no finalizer says goodbye over a socket of the parent's. A client
        # that we were given notices the fork by itself.
        if self._is_url:
            self._of_parents.append(self._client)
            self._client = None

    def for_pickle(self) -> Any:
        """Return what a pickle may hold; ``TypeError`` for a password or a connection."""
        if not self._is_url:
            raise TypeError(
                "a RedisStore that was given a client is not pickled: give it a URL, or a "
                "callable that returns one"
            )
        if not isinstance(self._given, Secret):
            return self._given
        url = self._given.reveal()
        if _holds_password(url):
            raise TypeError(
                "a RedisStore whose URL holds a password is not pickled, the password would go "
                "along: give it a callable that returns the URL, such as "
                "sources.FromEnvironment('REDIS_URL')"
            )
        return url

    def trouble(self, error: Exception) -> StoreError | None:
        errors = self._errors
        if not isinstance(error, errors.RedisError):
            return None
        said = " ".join(str(error).split())[:200]
        if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
            return StoreError(f"{self} refuses us: {said}")
        passing = tuple(getattr(errors, name) for name in _PASSING if hasattr(errors, name))
        if isinstance(error, passing) or any(word in said for word in _PASSING_WORDS):
            return StoreUnavailable(f"{self} cannot be used now: {said}")
        return StoreError(f"{self} cannot do that: {said}")

    def dangers(self) -> list[str]:
        """Return what in the server's settings may lose tokens; asked once."""
        try:
            facts = self._connected.info()
            settings = self._connected.config_get("save")
        except self._errors.RedisError:
            return []  # a managed server that does not tell
        found = []
        policy = str(facts.get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):
            found.append(
                f"{self} may drop tokens when its memory is full (maxmemory-policy {policy}), and "
                "a dropped token is a lost session: set maxmemory-policy to noeviction"
            )
        if not int(facts.get("aof_enabled", 0)):
            left = "only its last snapshot" if settings.get("save") else "nothing"
            found.append(
                f"{self} does not write every change down (appendonly no): after a crash {left} is "
                "left, and a refresh token that was rotated since is lost. Set appendonly to yes"
            )
        return found

    def __str__(self) -> str:
        if isinstance(self._given, Secret):
            return _without_password(self._given.reveal())
        return repr(self._given) if self._is_url else type(self._given).__name__


def _is_source(given: Any) -> bool:
    return callable(given) and not hasattr(given, "eval")


def _holds_password(url: str) -> bool:
    parts = urlsplit(url)
    return parts.password is not None or "password" in parts.query


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _bytes(value: Any) -> Any:
    """Return what the server said as bytes; some clients decode it."""
    return value.encode() if isinstance(value, str) else value
