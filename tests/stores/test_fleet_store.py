"""Tests of the stores on an engine beyond the contract."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines.fleet import KEY, environment
from engines.processes import wait_until
from engines.proxy import Proxy
from engines.redis import RedisServer

from requests_silent_refresh import (
    ClientCredentialsGrant,
    RedisStore,
    RefreshTimeout,
    RefreshTokenGrant,
    SQLStore,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    Token,
    TokenManager,
    WrongIdentity,
    WrongKey,
)
from requests_silent_refresh.keys import KeyFile, Passphrase, default_key_file, generate_key
from requests_silent_refresh.stores.contract import LockLost, State, StateMoved
from requests_silent_refresh.testing import AuthorizationServer


def opened(url, name="nightly", key=KEY, **lengths):
    """Open a store; ``lengths`` overrides the lengths of its leases."""
    kind = RedisStore if url.startswith("redis") else SQLStore
    store = type(kind.__name__, (kind,), lengths)(url, name, key=key)
    if isinstance(store, SQLStore):
        store.create_table()
    return store


@pytest.fixture(params=["redis_server", "postgres", "mariadb", "sqlite"])
def engine(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    return engine


@pytest.fixture(params=["redis_server", "postgres", "mariadb"])
def server_engine(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    return engine


@pytest.fixture
def store(engine):
    store = opened(engine.url)
    yield store
    store.close()


@pytest.fixture
def server():
    with AuthorizationServer(grace=0) as server:
        yield server


def signed_in(server, store, **options):
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"), store=store, refresh_ahead=0, **options
    )
    manager.sign_in(server.sign_in_token())
    return manager


def soon(condition):
    """Wait until ``condition()`` is true, and return its value; retry if it raises."""
    deadline = time.monotonic() + 5
    while True:
        try:
            answer = condition()
            if answer:
                return answer
        except (StoreError, RefreshTimeout):
            pass
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


# -- what it costs ------------------------------------------------------------------


def test_a_refresh_costs_four_round_trips(server_engine, server):
    """A refresh needs four round trips to the engine, a fresh token none (P14)."""
    with Proxy(server_engine.port) as proxy:
        url = server_engine.url.replace(f":{server_engine.port}/", f":{proxy.port}/")
        store = opened(url)
        manager = signed_in(server, store)
        token = manager.renew(manager.token())
        proxy.round_trips = 0
        for _ in range(100):
            assert manager.token() is token
        assert proxy.round_trips == 0
        manager.renew(token)
        assert server.counters.granted == 2
        assert 0 < proxy.round_trips <= 4
        store.close()


# -- what the engine sees -----------------------------------------------------------


def test_the_engine_sees_no_secret(engine, server):
    """P12: no key, row or field contains a token or a key, during and after refreshes."""
    store = opened(engine.url)
    manager = signed_in(server, store)
    secrets = [KEY]
    dumps = [engine.dump()]
    for _ in range(3):
        token = manager.renew(manager.token())
        secrets += [token.access_token.reveal(), token.refresh_token.reveal()]
        dumps.append(engine.dump())
    with store.exclusive(5.0) as hold:
        hold.begin(store.load())
        dumps.append(engine.dump())
    everything = b"\n".join(dumps)
    assert store.load().lineage.encode() in everything
    for secret in secrets:
        assert secret.encode() not in everything
    store.close()


# -- leases -------------------------------------------------------------------------


def test_a_lease_expires(engine):
    """P5: the lease of a dead holder expires, by the engine's clock."""
    store = opened(engine.url, take=0.3)
    state = store.save(Token("a", "r"), None)
    lost = store.exclusive(5.0, state)
    with pytest.raises(StoreUnavailable) as held:
        store.exclusive(0.0, state)
    assert "process" in held.value.holder
    began = time.monotonic()
    with store.exclusive(5.0, state):
        assert time.monotonic() - began < 2
        with pytest.raises(LockLost):
            lost.begin(state)
        assert not lost.still_held()
        lost.release()
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0, state)
    store.close()


def test_the_next_holder_learns_of_an_interrupted_refresh(engine):
    """P5: the mark of a holder that died stays until the state changes."""
    store = opened(engine.url, margin=0.1)
    state = store.save(Token("a", "r"), None)
    died = store.exclusive(5.0, state)
    died.begin(state, 0.0)
    assert died.interrupted_at is None
    for _ in range(2):
        with store.exclusive(5.0, state) as hold:
            assert abs(hold.interrupted_at - time.time()) < 5
            hold.begin(state)
            assert hold.interrupted_at is not None
    state = store.save(Token("b", "r2"), state)
    with store.exclusive(5.0, state) as hold:
        assert hold.interrupted_at is None
    store.close()


def test_a_refresh_without_an_answer_leaves_its_mark(engine, server):
    """If there was no answer, the mark outlives the lock, as the contract says."""
    store = opened(engine.url)
    manager = signed_in(server, store)
    server.fault("token", drop="after", times=2)
    with pytest.raises(Exception, match="closed"):
        manager.renew(manager.token())
    with store.exclusive(5.0) as hold:
        assert hold.interrupted_at is not None
    store.close()


def test_the_lease_is_as_long_as_the_exchange_may_take(engine):
    """P1: no other holder gets the lease while an exchange may still be running."""
    store = opened(engine.url, margin=0.2)
    state = store.save(Token("a", "r"), None)
    with store.exclusive(5.0, state) as hold:

        def begun():
            hold.begin(state, 60.0)
            return hold.still_held()  # False if a slow disk took half the margin

        wait_until(begun, "a lease to send with")
        threading.Event().wait(0.15)
        assert not hold.still_held()  # too late to send
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.5, state)  # and not yet free
    store.close()


def test_the_margin_is_added_to_the_lease(engine):
    """P1: an answer that comes at the exchange's last moment is saved before others begin."""
    store = opened(engine.url)
    state = store.save(Token("a", "r"), None)
    with store.exclusive(5.0, state) as hold:
        hold.begin(state, 0.0)
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0, state)
    store.close()


def test_begin_fails_if_the_state_has_changed(engine):
    """P1: a sign-in after the state was read ends the refresh before the token is sent."""
    store = opened(engine.url)
    state = store.save(Token("a", "r"), None)
    with store.exclusive(5.0, state) as hold:
        store.save(Token("b", "r2"), None)
        with pytest.raises(LockLost):
            hold.begin(state)
    store.close()


def test_a_lost_lease_loses_no_token(engine):
    """P4: a save without the lease succeeds if the state has not changed."""
    store = opened(engine.url, margin=0.1)
    state = store.save(Token("a", "r"), None)
    hold = store.exclusive(5.0, state)
    hold.begin(state, 0.0)
    with store.exclusive(5.0, state) as other:
        assert store.save(Token("b", "r2"), state).is_same(store.load())
        with pytest.raises(LockLost):
            other.begin(state)
    hold.release()
    store.close()


def test_a_save_ends_the_lease(engine):
    """Saving the refreshed state ends the lease; the lease of another owner stays."""
    store, other = opened(engine.url), opened(engine.url)
    state = store.save(Token("a", "r"), None)
    hold = store.exclusive(5.0, state)
    hold.begin(state)
    state = store.save(Token("b", "r2"), state)
    with other.exclusive(0.0, state) as theirs:
        theirs.begin(state)
        hold.release()
        store.save(Token("c", "r3"), None)
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0)
    store.close()
    other.close()


def test_an_unsaved_token_keeps_its_lease(engine):
    """P4: extend() takes the lease again, unless it has another owner or the state changed."""
    store = opened(engine.url, margin=0.2)
    state = store.save(Token("a", "r"), None)
    hold = store.exclusive(5.0, state)
    hold.begin(state, 0.3)
    threading.Event().wait(0.6)

    def extended():
        hold.extend()
        return hold.still_held()  # False if a slow disk took half the margin

    wait_until(extended, "the lease that was taken again")
    with pytest.raises(StoreUnavailable):
        store.exclusive(0.0, state)
    theirs = store.exclusive(5.0, state)
    threading.Event().wait(0.11)
    hold.extend()
    assert not hold.still_held()
    theirs.release()
    store.save(Token("b", "r2"), state)
    hold.extend()
    assert not hold.still_held()
    hold.release()
    store.close()


def test_concurrent_sign_ins_leave_one_session(engine):
    """If six hosts sign in to a new store at once, one complete session remains."""
    stores = [opened(engine.url) for _ in range(6)]
    start = threading.Barrier(6)

    def sign_in(number):
        start.wait(30)
        return stores[number].save(Token(f"token-{number}"), None)

    with ThreadPoolExecutor(6) as pool:
        states = list(pool.map(sign_in, range(6)))
    stored = stores[0].load()
    (mine,) = [state for state in states if state.is_same(stored)]
    assert stored.token.to_dict() == mine.token.to_dict()
    for store in stores:
        store.close()


def test_the_lease_of_an_empty_store(engine):
    """P1: the lock is exclusive in an empty store too."""
    stores = [opened(engine.url) for _ in range(4)]
    inside = threading.Semaphore(1)

    def enter(store):
        with store.exclusive(30.0):
            assert inside.acquire(blocking=False)
            inside.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, stores))
    for store in stores:
        store.close()


def test_a_huge_token_is_rejected(store):
    """A state that is too large to be read again is not stored."""
    state = store.save(Token("a"), None)
    with pytest.raises(StoreError, match="too large"):
        store.save(Token("b", extra={"padding": "x" * 2_000_000}), state)
    assert state.is_same(store.load())


# -- failover -------------------------------------------------------------------------


def test_a_state_lost_in_a_failover_is_saved_back(engine, server):
    """P1: if a failover loses the last rotation, a manager that has it saves it back."""
    store = opened(engine.url)
    manager = signed_in(server, store)
    first = manager.token()
    old = store.load()
    second = manager.renew(first)
    newest = store.load()
    assert store.reset() is not None
    store.replace(State(old.lineage, old.generation, old.token), None)  # the replica's state
    assert old.is_same(store.load())
    third = manager.renew(second)
    assert third is not second
    assert store.load().generation == newest.generation + 1
    assert server.counters.reuse_detections == 0
    store.close()


# -- without the engine -----------------------------------------------------------------


def redis_that_is_down(tmp_path):
    """Return a URL, and functions that start and stop a server there."""
    server = RedisServer(tmp_path / "engine")
    return server.url, server.start, server.stop


def database_that_is_down(tmp_path):
    """The same for a file in a directory that does not exist yet."""
    path = tmp_path / "mounted" / "tokens.sqlite"
    url = f"sqlite:///{path}"

    def mount():
        path.parent.mkdir()
        opened(url).close()

    return url, mount, lambda: None


@pytest.mark.parametrize("down", [redis_that_is_down, database_that_is_down])
def test_client_credentials_work_without_the_engine(tmp_path, down):
    """Client credentials are fetched without the store, and saved once it is available."""
    url, come_up, go = down(tmp_path)
    store = (RedisStore if url.startswith("redis") else SQLStore)(url, "nightly", key=KEY)
    with AuthorizationServer(client_secret="secret") as server:
        grant = ClientCredentialsGrant(server.token_endpoint, "client", "secret")
        manager = TokenManager(grant, store=store, refresh_ahead=0)
        first = manager.token()
        second = manager.renew(first)
        assert second is not first
        assert server.counters.granted == 2
        come_up()
        try:
            state = soon(store.load)
            assert state.token.access_token.reveal() == second.access_token.reveal()
        finally:
            store.close()
            go()


def test_a_refresh_token_is_not_sent_without_the_engine(server):
    """P1: a refresh token is not spent if its successor could not be saved."""
    with Proxy(1) as proxy:
        proxy.cut()
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", "nightly", key=KEY)
        grant = RefreshTokenGrant(server.token_endpoint, "client")
        manager = TokenManager(grant, store=store, wait_timeout=1)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            manager.token()
        assert time.monotonic() - began < 4
    assert server.counters.exchanges == 0


def test_recovery_needs_no_restart(redis_server, server):
    """P4: a token that could not be saved is saved as soon as the engine is back."""
    redis_server.empty()
    with Proxy(redis_server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", "nightly", key=KEY)
        manager = signed_in(server, store, wait_timeout=3)
        with server.token_gate() as gate:
            waiter = threading.Thread(target=manager.renew, args=(manager.token(),))
            waiter.start()
            assert gate.arrived.wait(10)
            proxy.cut()
        waiter.join()
        kept = manager.token()  # used from memory
        with pytest.raises((StoreUnavailable, RefreshTimeout)):
            manager.renew(kept)  # and not spent: it may have been saved
        assert server.counters.exchanges == 1
        proxy.heal()
        other = RedisStore(redis_server.url, "nightly", key=KEY)
        soon(lambda: other.load().generation >= 2)
        assert soon(lambda: manager.renew(kept)) is not kept
        assert server.counters.reuse_detections == 0
        store.close()
        other.close()


# -- keys -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RedisStore, SQLStore])
def test_the_default_key_file_is_rejected(kind):
    """The default key file is rejected, because other hosts do not have it."""
    url = "redis://127.0.0.1/0" if kind is RedisStore else "sqlite:///nowhere.sqlite"
    for key in (None, default_key_file(), [KEY, default_key_file()]):
        with pytest.raises(ValueError, match="FromEnvironment"):
            kind(url, "nightly", key=key)


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 201, 7])
@pytest.mark.parametrize("kind", [RedisStore, SQLStore])
def test_an_invalid_name(kind, name):
    """An invalid name is an error at construction."""
    with pytest.raises(ValueError, match="name"):
        kind("redis://127.0.0.1/0", name, key=KEY)


def test_a_key_is_rotated_without_disturbing_the_session(engine):
    """Add the new key first, call rotate_key(), remove the old key."""
    store = opened(engine.url)
    state = store.save(Token("a", "r"), None)
    new = generate_key()
    both = opened(engine.url, key=[new, KEY])
    assert both.rotate_key() is not None
    assert state.is_same(opened(engine.url, key=new).load())
    with pytest.raises(WrongKey):
        store.load()
    assert opened(engine.url, "nothing").rotate_key() is None


def test_the_wrong_key_overwrites_nothing(engine):
    """A sign-in over an unreadable state is an error until reset() has renamed it."""
    state = opened(engine.url).save(Token("a", "r"), None)
    store = opened(engine.url, key=generate_key())
    with pytest.raises(WrongKey):
        store.save(Token("b"), None)
    assert state.is_same(opened(engine.url).load())
    aside = store.reset()
    assert aside.startswith("nightly.quarantine.")
    assert store.load() is None
    store.save(Token("b"), None)
    with pytest.raises(StoreCorrupted, match=r"nightly\.quarantine"):
        opened(engine.url, aside).load()  # it is bound to its old name
    assert opened(engine.url, "nothing").reset() is None


def test_another_servers_session_is_not_used(engine, server):
    """P11: an engine keeps the identity too, and a grant for another server is refused."""
    signed_in(server, opened(engine.url))
    elsewhere = RefreshTokenGrant("https://auth.example.com/token", "client")
    stranger = TokenManager(elsewhere, store=opened(engine.url))
    for use in (stranger.token, lambda: stranger.sign_in(Token("a", "r"))):
        with pytest.raises(WrongIdentity, match=server.token_endpoint):
            use()
    assert server.counters.exchanges == 0


def test_names_are_case_sensitive(engine):
    """Names that differ in case are two sessions, whatever the database's collation."""
    lower, upper = opened(engine.url, "nightly"), opened(engine.url, "NIGHTLY")
    state = lower.save(Token("a"), None)
    assert upper.load() is None
    upper.save(Token("b"), None)
    assert state.is_same(lower.load())


def test_hosts_share_a_passphrase(engine):
    """Hosts with the same passphrase share the salt that is stored with the state."""
    first = opened(engine.url, key=Passphrase(lambda: "correct horse battery"))
    state = first.save(Token("a", "r"), None)
    state = first.save(Token("b", "r2"), state)
    second = opened(engine.url, key=Passphrase(lambda: "correct horse battery"))
    assert state.is_same(second.load())
    third = second.save(Token("c", "r3"), state)
    assert third.is_same(first.load())


def test_another_key_file_is_accepted(engine, tmp_path):
    """A key file that every host has (a mounted secret) is accepted."""
    store = opened(engine.url, key=KeyFile(tmp_path / "fleet.key", make=True))
    store.save(Token("a"), None)
    assert store.load().token is not None


# -- processes --------------------------------------------------------------------------

_FORKS = """
import os, sys
from requests_silent_refresh import RedisStore, SQLStore, Token
from requests_silent_refresh.secret_sources import FromEnvironment
from requests_silent_refresh.stores.contract import StateMoved
url = sys.argv[1]
kind = RedisStore if url.startswith("redis") else SQLStore
store = kind(url, "nightly", key=FromEnvironment("FLEET_KEY"))
state = store.save(Token("parent", "r"), None)
hold = store.exclusive(5.0, state)
hold.begin(state)
for _ in range(3):
    child = os.fork()
    if child == 0:
        assert state.is_same(store.load())
        hold.release()  # the parent's hold: does nothing
        store.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert state.is_same(store.load())
child = os.fork()
if child == 0:
    store.save(Token("child", "r2"), state)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
try:
    store.save(Token("late", "r2"), state)
except StateMoved as moved:
    assert moved.state.token.access_token.reveal() == "child"
    print("moved")
assert hold.owner
hold.release()
store.exclusive(0.0, store.load()).release()
store.close()
"""


def test_a_forked_child_has_its_own_connections(engine, tmp_path):
    """A child uses and closes its own connections, and does not end its parent's lease."""
    opened(engine.url).close()
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", _FORKS, engine.url],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "moved\n"
    assert "Warning" not in done.stderr


def test_a_store_can_be_used_after_it_was_closed(engine):
    """close() closes the connections; the next use opens new ones."""
    store = opened(engine.url)
    state = store.save(Token("a"), None)
    store.close()
    assert state.is_same(store.load())
    with pytest.raises(StateMoved):
        store.save(Token("b"), State("0" * 32, 1, None))
    store.close()
