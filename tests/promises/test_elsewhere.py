"""P17: a sign-out or a sign-in in another process reaches this one, aside from the hot path."""

from __future__ import annotations

import math
import threading

import pytest
from engines.fleet import KEY
from queue_kit import Clock

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RedisStore,
    SessionExpired,
    SQLStore,
    StoreUnavailable,
    Token,
    TokenManager,
)


class Counted(MemoryStore):
    """A store that processes share, and that counts how often it is read."""

    shared = True
    look_interval = 5.0

    def __init__(self):
        super().__init__()
        self.loads = 0
        self.trouble = lambda: None

    def load(self):
        self.loads += 1
        self.trouble()
        return super().load()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return Counted()


@pytest.fixture
def mine(store, clock):
    """A running process's manager, which has used the token of Ada."""
    manager = TokenManager(lambda token: token, store=store, clock=clock, monotonic=clock)
    manager.sign_in(Token("ada", "r"))
    assert bearer(manager) == "ada"
    return manager


@pytest.fixture
def theirs(store):
    """The manager of another process."""
    return TokenManager(lambda token: token, store=store)


def bearer(manager):
    return manager.token().access_token.reveal()


def test_a_sign_in_elsewhere_is_noticed(mine, theirs, clock):
    """Never as another person than the one who is signed in, for longer than the interval."""
    theirs.sign_in(Token("grace", "r2"))
    clock.advance(4.9)
    assert bearer(mine) == "ada"
    clock.advance(0.2)
    assert bearer(mine) == "grace"


def test_a_sign_out_elsewhere_is_noticed(mine, theirs, clock):
    """The request at which the look is due is the first that fails; an upload looks too."""
    theirs.sign_out()
    clock.advance(5.1)
    with pytest.raises(SessionExpired):
        mine.token()
    mine.sign_in(Token("ada", "r3"))
    theirs.sign_out()
    clock.advance(5.1)
    with pytest.raises(SessionExpired):
        mine.begin_upload()


def test_a_refresh_elsewhere_is_adopted(mine, theirs, clock):
    """A token that another process refreshed is used without a 401."""
    theirs.renew(theirs.token())
    clock.advance(5.1)
    before = mine.stats.exchanges
    mine.token()
    assert mine.stats.exchanges == before


def test_the_store_is_read_once_an_interval(mine, store, clock):
    """P14: nothing is read between two looks, nor by a process that sends nothing."""
    loads = store.loads
    for _ in range(100):
        mine.token()
    assert store.loads == loads
    clock.advance(60)
    for _ in range(100):
        mine.token()
    assert store.loads == loads + 1


def test_a_store_that_hangs_delays_one_request_shortly(mine, store, clock):
    """P8: the token is valid, so it is used; the late answer is adopted."""
    go_on = threading.Event()
    store.trouble = lambda: go_on.wait(30)
    clock.advance(5.1)
    assert bearer(mine) == "ada"
    assert bearer(mine) == "ada"
    go_on.set()


@pytest.mark.parametrize("trouble", [StoreUnavailable("down"), ValueError("odd"), SystemExit])
def test_a_store_that_cannot_be_read_changes_nothing(mine, store, clock, trouble):
    """P7: a token that is valid goes on being used."""

    def fail():
        raise trouble

    store.trouble = fail
    clock.advance(5.1)
    assert bearer(mine) == "ada"


def test_a_store_that_has_lost_everything_ends_no_session(mine, store, clock):
    """P7: a flushed engine is no sign-out, which leaves a tombstone."""
    store._state = None  # what a restart without persistence leaves; no method does it
    clock.advance(5.1)
    assert bearer(mine) == "ada"


def test_a_store_of_this_process_alone_is_not_looked_at():
    """A MemoryStore has no other process."""
    assert MemoryStore.look_interval == math.inf


def test_a_file_is_looked_at_each_second(tmp_path, clock):
    """P17: through a file within a second."""
    path = tmp_path / "tokens"
    mine = TokenManager(lambda token: token, store=EncryptedFileStore(path, KEY), clock=clock)
    mine.sign_in(Token("ada", "r"))
    assert bearer(mine) == "ada"
    TokenManager(lambda token: token, store=EncryptedFileStore(path, KEY)).sign_out()
    clock.advance(1.01)
    with pytest.raises(SessionExpired):
        mine.token()


@pytest.mark.parametrize("kind", ["redis_server", "sqlite"])
def test_an_engine_is_looked_at_every_thirty_seconds_or_as_set(request, clock, kind):
    """P17: through an engine within 30 s; a pickled store keeps what was set."""
    engine = request.getfixturevalue(kind)
    engine.empty()
    make = RedisStore if kind == "redis_server" else SQLStore
    stores = [make(engine.url, "elsewhere", key=KEY) for _ in range(2)]
    if kind == "sqlite":
        stores[0].create_table()
    assert stores[0].look_interval == 30
    stores[1].look_interval = 2.0
    for store in stores:
        mine = TokenManager(lambda token: token, store=store, clock=clock)
        mine.sign_in(Token("ada", "r"))
        mine.token()
        TokenManager(lambda token: token, store=make(engine.url, "elsewhere", key=KEY)).sign_out()
        clock.advance(store.look_interval - 0.1)
        assert bearer(mine) == "ada"
        clock.advance(0.2)
        with pytest.raises(SessionExpired):
            mine.token()
        store.close()


def test_a_look_that_needs_a_thread_is_left_out_without_one(mine, store, clock, monkeypatch):
    """P8: the store may hang, and the request would read it without a bound."""
    monkeypatch.setattr(
        "requests_silent_refresh.system.background_call.start_daemon", lambda *work: False
    )
    loads = store.loads
    clock.advance(5.1)
    assert bearer(mine) == "ada"
    assert store.loads == loads
