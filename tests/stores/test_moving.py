"""``copy_state`` moves a session between stores, and no refresh token is used twice."""

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
    """A session can be moved any number of times, without an exchange."""
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
        if round_ != 1:  # one move is made without a refresh in between
            manager = manager_of(server, target)
            manager.renew(manager.token())
    assert server.counters.reuse_detections == 0


def test_the_source_is_left_signed_out(server, file, engine):
    """P1: the source is signed out: a refresh token in two stores would lose the session."""
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


def test_a_running_exchange_ends_first(server, file, engine):
    """P1: nothing is copied while a refresh holds the source's lock."""
    manager_of(server, file).sign_in(server.sign_in_token())
    with file.exclusive(5.0), pytest.raises(StoreUnavailable):
        copy_state(file, engine, timeout=0.1)
    assert engine.load() is None
    assert file.load().token is not None


class Broken(Exception):
    """Stands for a crash."""


def breaking(store):
    """Make the store's ``clear`` fail."""

    class Breaking(type(store)):
        def clear(self, after):
            raise Broken

    store.__class__ = Breaking


@pytest.mark.parametrize("meanwhile", ["nothing", "source refreshed", "target refreshed"])
def test_a_repeated_call_completes_the_move(server, file, engine, meanwhile):
    """After a crash between the two saves, a second call keeps the newer of the states."""
    manager_of(server, file).sign_in(server.sign_in_token())
    kind = type(file)
    breaking(file)
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
def test_a_repeated_call_completes_the_move_back(server, file, engine, meanwhile):
    """The same for a move over the tombstone that the first move left."""
    manager_of(server, file).sign_in(server.sign_in_token())
    copy_state(file, engine)
    kind = type(engine)
    breaking(engine)
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
    """Another session in the target is an error; after a sign-out the move succeeds."""
    state = file.save(Token("a", "r"), None)
    theirs = engine.save(Token("b", "r2"), None)
    with pytest.raises(StoreError, match="another session"):
        copy_state(file, engine)
    assert theirs.is_same(engine.load())
    assert state.is_same(file.load())
    engine.clear(theirs)
    copy_state(file, engine)
    assert state.is_same(engine.load())


def test_a_source_without_a_session(file, engine):
    """An empty or signed-out source is an error, and the target is not changed."""
    with pytest.raises(StoreError, match="no session"):
        copy_state(file, engine)
    file.clear(file.save(Token("a"), None))
    with pytest.raises(StoreError, match="no session"):
        copy_state(file, engine)
    assert engine.load() is None


def test_a_store_cannot_be_its_own_target(file, engine):
    """Two store objects for the same place are detected: a move would end the session."""
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


def test_a_sign_in_during_the_move_is_kept(file, caplog):
    """A new session that was signed in to the source during the move is not ended."""
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


def test_a_warning_about_a_token_that_may_be_spent(engine, caplog):
    """If a refresh was interrupted before the move, a warning is logged."""
    engine.margin = 0.1
    state = engine.save(Token("a", "r"), None)
    engine.exclusive(5.0).begin(state, 0.0)
    with caplog.at_level(logging.WARNING):
        copy_state(engine, MemoryStore())
    assert "cut off" in caplog.text
