"""``copy_state``: a session moves between stores, and no refresh token is ever in use twice."""

from __future__ import annotations

import logging

import pytest
from engines.fleet import KEY

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RedisStore,
    RefreshTokenGrant,
    SessionExpired,
    SQLStore,
    StoreError,
    StoreUnavailable,
    Token,
    TokenManager,
    copy_state,
)

FILE_KEY = "f" * 42 + "8="


@pytest.fixture
def file(tmp_path):
    return EncryptedFileStore(tmp_path / "state" / "tokens", key=FILE_KEY)


@pytest.fixture(params=["redis_server", "sqlite"])
def engine(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    if request.param == "redis_server":
        store = RedisStore(engine.url, "nightly", key=KEY)
    else:
        store = SQLStore(engine.url, "nightly", key=KEY)
        store.create_table()
    yield store
    store.close()


def manager_of(server, store):
    grant = RefreshTokenGrant(server.token_endpoint, "client")
    return TokenManager(grant, store=store, refresh_ahead=0)


def plain(state):
    return state.token.to_dict()


def test_a_session_moves_and_moves_back(server, file, engine):
    """No exchange is spent on it; it goes on where it was taken, any number of times."""
    manager_of(server, file).sign_in(server.sign_in_token())
    stores = [file, engine]
    for round_ in range(4):
        source, target = stores[round_ % 2], stores[(round_ + 1) % 2]
        before = source.load()
        exchanges = server.counters.exchanges
        copy_state(source, target)
        assert plain(target.load()) == plain(before)
        assert target.load().lineage == before.lineage
        assert server.counters.exchanges == exchanges
        if round_ != 1:  # without a refresh in between it moves as well
            manager = manager_of(server, target)
            manager.renew(manager.token())
    assert server.counters.reuse_detections == 0


def test_the_source_is_left_signed_out(server, file, engine):
    """P1: two stores with one refresh token would lose the session, so the source has none."""
    manager_of(server, file).sign_in(server.sign_in_token())
    before = manager_of(server, file)
    assert before.signed_in
    copy_state(file, engine)
    assert file.load().token is None
    with pytest.raises(SessionExpired):
        before.renew(before.token())
    after = manager_of(server, engine)
    after.renew(after.token())
    assert server.counters.reuse_detections == 0
    assert server.counters.revocations == 0


def test_an_exchange_under_way_ends_first(server, file, engine):
    """P1: while a refresh holds the source's lock nothing is copied."""
    manager_of(server, file).sign_in(server.sign_in_token())
    with file.exclusive(5.0), pytest.raises(StoreUnavailable):
        copy_state(file, engine, timeout=0.1)
    assert engine.load() is None
    assert file.load().token is not None


class Broken(Exception):
    """What stands for a crash."""


def breaking(store, after):
    """Have the store's next ``after`` calls of ``clear`` fail."""

    class Breaking(type(store)):
        def clear(self, after):
            raise Broken

    store.__class__ = Breaking


@pytest.mark.parametrize("meanwhile", ["nothing", "source refreshed", "target refreshed"])
def test_done_again_after_a_crash_it_ends_what_was_begun(server, file, engine, meanwhile):
    """Cut off between the two saves, a second call makes one session of it, the newer one."""
    manager_of(server, file).sign_in(server.sign_in_token())
    kind = type(file)
    breaking(file, 1)
    with pytest.raises(Broken):
        copy_state(file, engine)
    file.__class__ = kind
    assert file.load().is_same(engine.load())
    if meanwhile != "nothing":
        manager = manager_of(server, file if meanwhile == "source refreshed" else engine)
        manager.renew(manager.token())
    for _ in range(2):
        copy_state(file, engine)
        assert file.load().token is None
    manager = manager_of(server, engine)
    manager.renew(manager.token())
    assert server.counters.reuse_detections == 0


@pytest.mark.parametrize("meanwhile", ["nothing", "source refreshed"])
def test_done_again_after_a_crash_on_the_way_back(server, file, engine, meanwhile):
    """The same over the tombstone that the way there has left."""
    manager_of(server, file).sign_in(server.sign_in_token())
    copy_state(file, engine)
    kind = type(engine)
    breaking(engine, 1)
    with pytest.raises(Broken):
        copy_state(engine, file)
    engine.__class__ = kind
    assert engine.load().is_same(file.load())
    if meanwhile != "nothing":
        manager = manager_of(server, engine)
        manager.renew(manager.token())
    copy_state(engine, file)
    assert engine.load().token is None
    manager = manager_of(server, file)
    manager.renew(manager.token())
    assert server.counters.reuse_detections == 0


def test_another_session_in_the_target_is_not_overwritten(file, engine):
    """What would be lost is named; signed out, it makes room."""
    state = file.save(Token("a", "r"), None)
    theirs = engine.save(Token("b", "r2"), None)
    with pytest.raises(StoreError, match="another session"):
        copy_state(file, engine)
    assert theirs.is_same(engine.load())
    assert state.is_same(file.load())
    engine.clear(theirs)
    copy_state(file, engine)
    assert state.is_same(engine.load())


def test_without_a_session_there_is_nothing_to_move(file, engine):
    """An empty or ended source is an error, and the target is untouched."""
    with pytest.raises(StoreError, match="no session"):
        copy_state(file, engine)
    file.clear(file.save(Token("a"), None))
    with pytest.raises(StoreError, match="no session"):
        copy_state(file, engine)
    assert engine.load() is None


def test_one_place_by_two_names_is_noticed(file, engine):
    """A store that was opened twice is not its own target: it would end its session."""
    again = EncryptedFileStore(file.path, key=FILE_KEY)
    state = file.save(Token("a"), None)
    for target in (file, again):
        with pytest.raises(StoreUnavailable, match="same place"):
            copy_state(file, target, timeout=0.1)
    assert state.is_same(file.load())
    engine.save(Token("a"), None)
    with pytest.raises(StoreUnavailable, match="same place"):
        copy_state(engine, engine, timeout=0.1)
    assert engine.load().token is not None


def test_a_sign_in_during_the_move_stays(file, caplog):
    """What was signed in meanwhile at the source is another session, and is not ended."""
    target = MemoryStore()
    state = file.save(Token("a"), None)
    replace = target.replace

    def replace_and_sign_in(new, after):
        replace(new, after)
        file.save(Token("b"), None)

    target.replace = replace_and_sign_in
    with caplog.at_level(logging.WARNING):
        copy_state(file, target)
    assert state.is_same(target.load())
    assert file.load().token.access_token.reveal() == "b"
    assert "signed in or out" in caplog.text


def test_a_token_that_may_be_spent_is_said(engine, caplog):
    """A refresh that was cut off before the move is in the log."""
    engine.margin = 0.1
    state = engine.save(Token("a", "r"), None)
    engine.exclusive(5.0).begin(state, 0.0)
    with caplog.at_level(logging.WARNING):
        copy_state(engine, MemoryStore())
    assert "cut off" in caplog.text
