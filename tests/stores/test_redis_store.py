"""``RedisStore`` with a real server: the contract, and what is specific to Redis."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys

import pytest
import redis
from engines.fleet import KEY
from engines.processes import free_port, wait_until
from engines.proxy import Proxy
from engines.redis import RedisServer
from queue_kit import refresh_and_meanwhile
from redis.cluster import RedisCluster

from requests_silent_refresh import RedisStore, StoreError, StoreUnavailable, Token
from requests_silent_refresh.secret_sources import FromEnvironment
from requests_silent_refresh.system import warnings_once
from requests_silent_refresh.testing.store_contract import StoreContract


def key():
    return KEY


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("FLEET_KEY", KEY)
    # A warning is given once per process, and no public way resets that.
    monkeypatch.setattr(warnings_once, "_warned", set())


class RedisContract(StoreContract):
    @pytest.fixture(autouse=True)
    def _empty(self, redis_server):
        redis_server.empty()
        self.url = redis_server.url


class TestRedisByURL(RedisContract):
    def make_store(self, tmp_path):
        return RedisStore(self.url, "nightly", key=FromEnvironment("FLEET_KEY"))


def by_client(url):
    """Open a store with a client that decodes answers."""
    client = redis.Redis.from_url(url, decode_responses=True)
    return RedisStore(client, "nightly", key=FromEnvironment("FLEET_KEY"))


class TestRedisByClient(RedisContract):
    def make_store(self, tmp_path):
        return by_client(self.url)

    def opener(self, store):
        return functools.partial(by_client, self.url)


@pytest.fixture
def store(redis_server):
    redis_server.empty()
    store = RedisStore(redis_server.url, "nightly", key=key)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), ["maxmemory-policy"]),
        (("--appendonly", "no", "--save", ""), ["appendonly no", "nothing is left"]),
        (("--appendonly", "no", "--save", "3600 1"), ["appendonly no", "last snapshot"]),
        (("--appendonly", "yes", "--maxmemory-policy", "volatile-lru"), None),
    ],
)
def test_a_warning_about_settings_that_may_lose_tokens(tmp_path, settings, words):
    """First use warns once of a server that evicts any key or does not save every change."""
    server = RedisServer(tmp_path / "engine", settings).start()
    try:
        store = RedisStore(server.url, "nightly", key=key)
        if words is None:
            store.load()
        else:
            with pytest.warns(UserWarning, match=".*".join(words)):
                store.load()
        store.load()
        RedisStore(server.url, "another", key=key).load()
    finally:
        server.stop()


def test_a_server_that_hides_its_settings(store, redis_server):
    """A managed server that refuses CONFIG can be used."""
    with redis_server.client() as client:
        client.acl_setuser(
            "app", enabled=True, nopass=True, keys="*", commands=["+@all", "-config"]
        )
    limited = RedisStore(redis_server.url.replace("//", "//app:any@"), "nightly", key=key)
    assert limited.load() is None
    limited.close()


def test_a_state_is_moved_aside_on_a_cluster(tmp_path):
    """reset() works although the new key is another node's, and keeps what is stored."""
    bus = str(free_port())
    settings = ("--appendonly", "yes", "--cluster-enabled", "yes", "--cluster-port", bus)
    server = RedisServer(tmp_path / "engine", settings).start()
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster")
        for decoded in (True, False):
            client = RedisCluster("127.0.0.1", server.port, decode_responses=decoded)
            store = RedisStore(client, f"decoded {decoded}", key=key)
            store.save(Token("a", "r"), None)
            content = client.hgetall(f"requests-silent-refresh:{store.name}")
            aside = store.reset()
            assert client.hgetall(f"requests-silent-refresh:{aside}") == content
            assert store.load() is None
            assert store.reset() is None
            client.close()
    finally:
        server.stop()


def test_a_state_that_is_replaced_while_it_is_moved_aside(store, redis_server):
    """The state that was stored last is the one that is moved, whole."""
    first = store.save(Token("a", "r"), None)
    with redis_server.client() as client:
        copy = store._engine.client.hset
        states = []

        def replaced_after(*arguments, **options):
            copied = copy(*arguments, **options)
            if not states:
                states.append(store.save(Token("b", "r2"), first))
            return copied

        store._engine.client.hset = replaced_after
        aside = store.reset()
        del store._engine.client.hset
        (name,) = client.keys("*")
        assert name.decode() == f"requests-silent-refresh:{aside}"
        assert client.hget(name, "generation") == b"2"


def test_close_closes_the_connections(store, redis_server):
    """P8: at once, although a step that hangs may still hold the client."""
    store.load()
    client = store._engine.client
    with redis_server.client() as other:
        number = client.client_id()
        store.close()
        wait_until(lambda: number not in {int(c["id"]) for c in other.client_list()}, "the close")


def test_a_server_that_refuses_writes_is_an_outage(store, redis_server):
    """P7: a full memory, like a read-only replica, may pass, so it is StoreUnavailable."""
    state = store.save(Token("a", "r"), None)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable, match="OutOfMemoryError"):
                store.save(Token("b", "r2"), state)
        finally:
            client.config_set("maxmemory", "0")
    store.save(Token("b", "r2"), state)


@pytest.mark.parametrize("by", ["url", "client"])
def test_the_pooled_connection_is_closed_during_an_exchange(redis_server, by):
    """P4: an idle timeout of the server between the rotation and the save has no effect."""
    redis_server.empty()
    with redis_server.client() as theirs, redis_server.client() as ours:
        store = RedisStore(redis_server.url if by == "url" else theirs, "nightly", key=key)

        def kill():
            assert ours.client_kill_filter(_type="normal", skipme=True) > 0

        refresh_and_meanwhile(store, kill)
        store.close()


def test_the_pooled_connection_is_forgotten_during_an_exchange(redis_server):
    """P4: nor has a firewall's, though the connection seems alive until the save is sent."""
    redis_server.empty()
    with Proxy(redis_server.port) as proxy:
        url = redis_server.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        store = RedisStore(url, "nightly", key=key)
        refresh_and_meanwhile(store, proxy.forget)
        assert proxy.connections > 1
        store.close()


def test_a_redis_key_of_another_type_is_an_error(store, redis_server):
    """A Redis key that is not a hash is never overwritten."""
    with redis_server.client() as client:
        client.set("requests-silent-refresh:nightly", "theirs")
        with pytest.raises(StoreError):
            store.save(Token("a"), None)
        assert client.get("requests-silent-refresh:nightly") == b"theirs"


def test_an_incomplete_hash_is_an_error(store, redis_server):
    """A hash that lacks a field is an error, and not treated as an empty store."""
    store.save(Token("a"), None)
    with redis_server.client() as client:
        client.hdel("requests-silent-refresh:nightly", "state")
    with pytest.raises(StoreError, match="incomplete"):
        store.load()


@pytest.mark.parametrize(
    "arguments",
    [
        ("redis://app:canary-password@127.0.0.1/0", key),
        ("redis://127.0.0.1/0?password=canary-password", key),
        ("redis://127.0.0.1/0", KEY),
        (redis.Redis(), key),
    ],
    ids=["password", "password in the query", "literal key", "client"],
)
def test_secrets_and_clients_are_not_pickled(arguments):
    """P12: a store with a password, a literal key or a client cannot be pickled."""
    url, its_key = arguments
    store = RedisStore(url, "nightly", key=its_key)
    assert "canary-password" not in repr(store)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(store)


def test_a_callable_keeps_the_password_out_of_the_pickle(store, redis_server, monkeypatch):
    """P12: the pickle contains the name of the variable and not the URL."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    store = RedisStore(FromEnvironment("REDIS_URL"), "nightly", key=FromEnvironment("FLEET_KEY"))
    again = pickle.loads(pickle.dumps(store))
    assert again.load() is None
    assert "REDIS_URL" in repr(again)
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(StoreError, match="REDIS_URL"):
        pickle.loads(pickle.dumps(store)).load()


@pytest.mark.parametrize("given", [7, None, object()])
def test_an_invalid_client(given):
    """An argument of another type is an error at construction."""
    with pytest.raises(TypeError, match="client_or_url"):
        RedisStore(given, "nightly", key=key)


def test_an_invalid_url():
    """An invalid URL is an error at construction, or on use if a callable returns it."""
    with pytest.raises(ValueError, match="Redis URL"):
        RedisStore("http://127.0.0.1", "nightly", key=key)
    with pytest.raises(StoreError, match="Redis URL"):
        RedisStore(lambda: "http://127.0.0.1", "nightly", key=key).load()


def test_without_redis_py_the_extra_is_named():
    """Without redis-py the error says which extra to install."""
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "from requests_silent_refresh import RedisStore\n"
        "try: RedisStore('redis://127.0.0.1', 'nightly', key='x')\n"
        "except (ImportError, ValueError) as error: print(error)\n"
        f"try: RedisStore('redis://127.0.0.1', 'nightly', key={KEY!r})\n"
        "except ImportError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "requests-silent-refresh[redis]" in said.stdout
