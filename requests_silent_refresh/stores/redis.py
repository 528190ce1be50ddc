"""``RedisStore``: a session in a hash on a Redis or Valkey server (extra ``redis``)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from .. import arguments
from ..errors import StoreError
from ..system.warnings_once import warn_once
from .contract import State
from .engine import (
    TOO_LATE,
    Engine,
    Held,
    Row,
    Seen,
    checked_name,
    fleet_key,
    milliseconds,
    one_line,
)
from .lease import LeasedStore

# Every script starts by reading the hash's fields and the server's clock (milliseconds).
# It uses a single key, so that it works on a cluster.
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

_READ = """
return {now, unpack(redis.call('HMGET', key, 'lineage', 'generation', 'key_id', 'state'))}
"""

_TAKE = """
local owner, holder, length, deadline, compare, lineage, generation = unpack(ARGV)
if now > tonumber(deadline) then return {'late', now} end
if compare == '1' and not is_seen(lineage, generation) then return {'moved'} end
if leased and f.owner ~= owner then return {'held', f.holder, f['until'] - now} end
redis.call('HSET', key, 'owner', owner, 'holder', holder, 'until', now + length)
return {'taken'}
"""

_BEGIN = """
local owner, length, deadline, lineage, generation = unpack(ARGV)
if now > tonumber(deadline) or not is_seen(lineage, generation) then return 0 end
if not leased or f.owner ~= owner then return 0 end
redis.call('HSET', key, 'until', now + length)
if not f.begun_by then redis.call('HSET', key, 'begun_by', owner, 'begun_at', now) end
return 1
"""

_EXTEND = """
local owner, holder, length, deadline, lineage, generation = unpack(ARGV)
if now > tonumber(deadline) or not is_seen(lineage, generation) then return 0 end
if leased and f.owner ~= owner then return 0 end
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

_DELETE = """
if (redis.call('HGET', key, 'state') or '') ~= ARGV[1] then return 0 end
return redis.call('DEL', key)
"""

# Errors that may pass: redis-py's classes for them (older releases lack some), and the
# words in the server's messages.
_PASSING = (
    *("ConnectionError", "TimeoutError", "ReadOnlyError", "OutOfMemoryError"),
    *("ClusterDownError", "MasterDownError", "TryAgainError"),
)
_PASSING_WORDS = ("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY ")


class RedisStore(LeasedStore):
    """Keeps the session encrypted in Redis, for any number of hosts. Thread-safe.

    >>> from requests_silent_refresh.secret_sources import FromEnvironment
    >>> store = RedisStore("redis://localhost/0", "report", key=FromEnvironment("FLEET_KEY"))

    ``client_or_url``
        A URL that redis-py accepts (``redis://``, ``rediss://``, ``unix://``), a callable that
        returns one (``FromEnvironment("REDIS_URL")``), or a redis-py client, for example with
        TLS, Sentinel or Cluster. You close your own client.
    ``name``
        The name of the session. Hosts that use the same name share one session. It is kept in
        the hash ``requests-silent-refresh:NAME``.
    ``key``
        See :mod:`requests_silent_refresh.keys`. Every host must have the same key. There is no
        default, because each machine has its own default key file.

    Raises ``ImportError`` if redis-py is not installed, and ``ValueError`` or ``TypeError`` if
    the URL, the name or the key is invalid. Connects on first use, and then warns if the server
    may lose tokens, through an eviction policy for all keys or for lack of persistence.

    Pickling raises ``TypeError`` if the store was given a client, a URL with a password, or a
    literal key. Compare-and-set and lease are Lua scripts on one key, for Redis 5 or later.
    :class:`~requests_silent_refresh.stores.lease.LeasedStore` explains how the lease keeps the
    contract, and ``docs/fleet.rst`` what a failover of Redis may lose.
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


class _Redis(Engine):
    """The hash ``key`` on a server."""

    store, client_name = "RedisStore", "a client"

    def __init__(self, given: Any, key: str) -> None:
        try:
            import redis.exceptions
        except ImportError:
            raise ImportError(
                "RedisStore needs redis-py: pip install 'requests-silent-refresh[redis]'"
            ) from None
        self._redis = redis
        self._errors = redis.exceptions
        self._key = key
        if hasattr(given, "eval") and not isinstance(given, type):
            super().__init__(None, given, type(given).__name__)
        elif isinstance(given, str):
            super().__init__(given, None, "")  # raises ValueError for a URL that cannot be split
            self._shown = _without_password(given)
        else:
            arguments.functions(
                "a URL, a callable that returns one, or a redis-py client", client_or_url=given
            )
            super().__init__(given, None, repr(given))

    # -- one round trip each ---------------------------------------------------------

    def read(self) -> Row | None:
        now, *fields = self._run(_READ)
        self.notes_time(int(now))
        found = [_bytes(one) for one in fields]
        if found[0] is None or None in found:
            if found.count(None) == len(found):
                return None  # there may be a lease
            raise StoreError(f"the hash {self._key} is incomplete: another program changed it")
        lineage, generation, key_id, state = found
        return Row(lineage.decode(), int(generation), key_id.decode(), state)

    def write(self, row: Row, seen: Seen, owner: str) -> bool:
        return bool(self._run(_WRITE, *seen, owner, *row))

    def take(
        self, owner: str, holder: str, seconds: float, seen: Seen | None, deadline: int
    ) -> Held | bool:
        compared = ("0", "", 0) if seen is None else ("1", *seen)
        answer = self._run(_TAKE, owner, holder, milliseconds(seconds), deadline, *compared)
        word = _bytes(answer[0])
        if word == b"late":
            self.notes_time(int(answer[1]))
            return TOO_LATE
        if word == b"held":
            who = _bytes(answer[1])
            return Held(None if who is None else who.decode(), float(answer[2]) / 1000)
        return bool(word == b"taken")

    def begin(self, owner: str, seen: Seen, seconds: float, deadline: int) -> bool:
        return bool(self._run(_BEGIN, owner, milliseconds(seconds), deadline, *seen))

    def extend(self, owner: str, holder: str, seconds: float, seen: Seen, deadline: int) -> bool:
        return bool(self._run(_EXTEND, owner, holder, milliseconds(seconds), deadline, *seen))

    def release(self, owner: str, keep_mark: bool = False) -> None:
        self._run(_RELEASE, owner, int(keep_mark))

    def interrupted(self, owner: str) -> float | None:
        by, at = (_bytes(one) for one in self.client.hmget(self._key, "begun_by", "begun_at"))
        return None if at is None or by == owner.encode() else float(at) / 1000

    def set_aside(self, name: str) -> bool:
        # Copied and then deleted: RENAME fails on a cluster whose nodes share out the two keys.
        aside = f"requests-silent-refresh:{name}"
        while fields := self.client.hgetall(self._key):
            state = {_bytes(field): value for field, value in fields.items()}.get(b"state", "")
            self.client.hset(aside, mapping=fields)
            if self._run(_DELETE, state):
                return True
            self.client.delete(aside)  # of a state that has been replaced meanwhile
        return False

    def _run(self, script: str, *arguments: Any) -> Any:
        # Not by its digest: a server that failed over or restarted does not know the script.
        return self.client.eval(_START + script, 1, self._key, *arguments)

    # -- the connection --------------------------------------------------------------

    def connect(self, url: str) -> Any:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # One immediate retry, in case the server has closed a pooled connection.
        retry = Retry(NoBackoff(), 1)
        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), self.patience)
        try:
            return self._redis.Redis.from_url(url, retry=retry, **timeouts)
        except ValueError:
            # From None: the error may quote a part of the password.
            raise ValueError(
                "client_or_url is not a Redis URL that redis-py can parse: give one that begins "
                "with redis://, rediss:// or unix://"
            ) from None

    def disconnect(self) -> None:
        # A client that was given may be used elsewhere, drops broken connections by
        # itself, and notices a fork.
        if self._is_ours:
            client, self._client = self._client, None
            if client is not None:
                client.connection_pool.disconnect()

    def holds_password(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.password is not None or "password" in parts.query

    def trouble(self, error: Exception) -> StoreError | None:
        errors = self._errors
        if not isinstance(error, errors.RedisError):
            return None
        if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
            return self.rejected_login(error)
        passing = tuple(getattr(errors, name) for name in _PASSING if hasattr(errors, name))
        if isinstance(error, passing) or any(word in one_line(error) for word in _PASSING_WORDS):
            return self.unavailable(error)
        return self.rejected(error)

    def dangers(self) -> list[str]:
        """Return warnings about settings of the server that may lose tokens."""
        try:
            facts = self.client.info()
            settings = self.client.config_get("save")
        except self._errors.RedisError:
            return []  # managed servers may refuse these commands
        found = []
        policy = str(facts.get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):
            found.append(
                f"{self} may drop tokens when its memory is full (maxmemory-policy {policy}), and "
                "then the session is lost: set maxmemory-policy to noeviction"
            )
        if not int(facts.get("aof_enabled", 0)):
            left = "only its last snapshot" if settings.get("save") else "nothing"
            found.append(
                f"{self} does not save every change (appendonly no): after a crash {left} is "
                "left, and a refresh token that was rotated since is lost. Set appendonly to yes"
            )
        return found


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _bytes(value: Any) -> Any:
    """Return a value from the server as bytes; some clients decode it."""
    return value.encode() if isinstance(value, str) else value
