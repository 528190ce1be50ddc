"""Stores whose state changes, that fail, or that lose their lock at each step of a refresh.

An application's own store may do all of this.
"""

from __future__ import annotations

import threading

import pytest
from queue_kit import (
    CROWD,
    Crowd,
    assert_no_token_was_spent_twice,
    outcome_of,
    signed_in,
    until,
)

from requests_silent_refresh import (
    MemoryStore,
    RefreshFailed,
    RefreshTimeout,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    StoreUnavailable,
    Token,
    TokenManager,
)
from requests_silent_refresh.stores.contract import Hold, State, StateMoved


class Scripted(MemoryStore):
    """Calls ``before[step]()`` before a step: ``load``, ``replace``, ``lock`` or ``send``.

    After the lock was released it calls ``before["released"]()``. Each is called once, unless it
    was set with :meth:`always`.
    """

    def __init__(self):
        super().__init__()
        self.before = {}

    def _at(self, step):
        action = self.before.pop(step, None)
        return None if action is None else action()

    def load(self):
        self._at("load")
        return super().load()

    def replace(self, new, after):
        self._at("replace")
        super().replace(new, after)

    def exclusive(self, timeout, after=None):
        if self._at("lock") == "moved":
            return None
        hold = super().exclusive(timeout, after)
        return hold if hold is None else _ScriptedHold(self, hold)

    def fall_back_to(self, state):
        """Do as an engine that fails over to an older copy."""
        self._state = state  # replace() refuses to write an older generation

    def always(self, step, action):
        def again():
            self.before[step] = again
            return action()

        self.before[step] = again


class _ScriptedHold(Hold):
    def __init__(self, store, hold):
        self._store = store
        self._hold = hold

    def still_held(self):
        return self._store._at("send") != "lost"

    def release(self):
        self._hold.release()
        self._store._at("released")


@pytest.fixture
def store():
    return Scripted()


@pytest.fixture
def manager(server, store):
    return signed_in(server, store=store)


def other_manager(server, store):
    return TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store, refresh_ahead=0)


def test_a_lock_that_was_lost_is_taken_again(server, store, manager):
    """P1: the process was stopped after it took the lock. It starts over, and has sent nothing."""
    store.before["send"] = lambda: "lost"
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).kinds() == {"Token": CROWD}
    assert manager.stats.exchanges == server.counters.exchanges == 1


def test_a_lock_that_is_lost_each_time(server, store):
    """P1, P8: the refresh ends before ``wait_timeout``, with the store's error."""
    manager = signed_in(server, store=store, wait_timeout=2)
    store.always("send", lambda: "lost")
    with pytest.raises(StoreUnavailable, match="stopped before it could refresh"):
        manager.renew(manager.token())
    assert server.counters.exchanges == 0


def test_another_manager_refreshed_before_the_lock_was_taken(server, store, manager):
    """P1: the store is read again under the lock, and the other's token is adopted."""
    other = other_manager(server, store)
    old = manager.token()
    # The other one refreshes and releases the lock just before this one takes it.
    store.before["lock"] = lambda: other.renew(other.token())
    assert manager.renew(old) is other.token()
    assert server.counters.exchanges == 1
    assert manager.stats.adopted == 1


def test_a_sign_in_just_after_the_lock_was_taken(server, store, manager):
    """P1: a sign-in needs no lock. The store is read once more under the lock and finds it."""
    old, mine = manager.token(), server.sign_in_token()

    def sign_in_after_the_lock():
        store.before["load"] = lambda: MemoryStore.replace(store, State.first(mine), None)

    store.before["lock"] = sign_in_after_the_lock
    assert manager.renew(old) is mine
    assert server.counters.exchanges == 0


def test_a_store_that_changes_faster_than_it_can_be_read(server, store):
    """P8: the refresh ends within ``wait_timeout``, with an error that says so."""
    manager = signed_in(server, store=store, wait_timeout=1)
    store.always("lock", lambda: "moved")
    with pytest.raises(StoreUnavailable, match="faster than it can be read"):
        manager.renew(manager.token())


def test_a_lock_that_is_never_released(store):
    """P8: a grant that does not rotate waits for it, too. The refresh ends with the store's error,
    which names the holder, and does not go on in the background."""
    errors = []

    def refresh(token):
        raise AssertionError

    refresh.rotates = refresh.needs_sign_in = False
    manager = TokenManager(
        refresh, store, wait_timeout=0.2, on_event=lambda event: errors.append(event.error)
    )
    with store.exclusive(1):
        assert isinstance(outcome_of(manager.token), (StoreUnavailable, RefreshTimeout))
        assert manager.finish(10)
        until(lambda: errors)
    (error,) = errors
    assert isinstance(error, StoreUnavailable)
    assert error.holder == "this process"


def test_a_grant_that_does_not_rotate_gets_a_lock_that_is_released_in_time(store, monkeypatch):
    """P1: it goes on waiting for a lock that somebody holds, and one exchange follows."""
    monkeypatch.setattr("requests_silent_refresh.manager.refresher.NON_ROTATING_PATIENCE", 0.01)
    tries, exchanged = [], []

    def refresh(token):
        exchanged.append(token)
        return Token("new")

    refresh.rotates = refresh.needs_sign_in = False
    manager = TokenManager(refresh, store)
    store.always("lock", lambda: tries.append(1))
    hold = MemoryStore.exclusive(store, 1)
    crowd = Crowd(manager.token)
    until(lambda: len(tries) >= 3)
    assert exchanged == []
    hold.release()
    assert set(crowd.outcomes()) == {manager.token()}
    assert exchanged == [None]


def test_a_sign_in_during_a_read_of_the_store_is_not_overwritten(server, store, manager):
    """P4: the thread that read too slowly reads the store again."""
    mine = server.sign_in_token()

    def sign_in_meanwhile():
        manager.sign_in(mine)

    theirs = State.first(server.sign_in_token())
    store.before["load"] = sign_in_meanwhile
    MemoryStore.replace(store, theirs, None)
    assert manager.signed_in
    assert manager.token() is mine


@pytest.mark.parametrize("moves", [True, False], ids=["meanwhile", "quietly"])
def test_a_store_that_fell_behind_gets_the_newer_state_back(server, store, manager, moves):
    """P4: after an engine failed over to an older copy; even if its state changes meanwhile."""
    older = store.load()
    second = manager.renew(manager.token())
    store.fall_back_to(older)
    if moves:
        store.before["replace"] = lambda: raise_(StateMoved(older))
    manager.renew(second)
    assert store.load().generation == 3
    assert_no_token_was_spent_twice(server)


def test_a_store_that_fell_behind_gets_an_unsaved_token(server, store, quick):
    """P4: an engine that fails over between two attempts to save gets the newest state."""
    manager = signed_in(server, store=store)
    older = store.load()
    second = manager.renew(manager.token())

    def fall_over():
        store.fall_back_to(older)
        raise OSError(5, "Input/output error")

    store.before["replace"] = fall_over
    third = manager.renew(second)
    until(lambda: store.load().generation == 3)
    assert store.load().token is third


def raise_(error):
    raise error


def until_the_worker_has_ended():
    """Wait for the end of its thread: pytest must report its exception in the same test."""
    until(lambda: not any(t.name == "silent-refresh" for t in threading.enumerate()))


def test_an_unsaved_token_whose_lock_was_lost_is_not_refreshed(server, store, no_saver):
    """P1, P8: it may have been saved unnoticed, and another process may have refreshed it. The
    refresh ends with the store's error instead of going on in the background."""
    errors = []
    manager = signed_in(
        server, store=store, wait_timeout=0.5, on_event=lambda event: errors.append(event.error)
    )
    store.always("replace", lambda: raise_(OSError(28, "No space left on device")))
    second = manager.renew(manager.token())
    store.always("send", lambda: "lost")
    assert isinstance(outcome_of(lambda: manager.renew(second)), (StoreUnavailable, RefreshTimeout))
    until(lambda: len(errors) == 2, 10)
    assert [type(error) for error in errors] == [type(None), StoreUnavailable]
    assert server.counters.exchanges == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_that_ends_its_thread_loses_no_token(server, store, quick):
    """P5: the store's driver raises SystemExit after the exchange. The token is used from memory,
    and another thread saves it."""
    manager = signed_in(server, store=store)
    first = manager.token()
    store.before["replace"] = lambda: raise_(SystemExit())
    second = manager.renew(first)
    assert second is manager.token() is not first
    until(lambda: store.load().token is second)
    assert manager.finish(10)
    until_the_worker_has_ended()
    assert server.counters.exchanges == 1


def test_a_store_that_fails_after_a_save_was_superseded(server, store, quick, caplog):
    """P4: another process signed in, and the thread that saves cannot read that. It releases the
    lock and logs the failure."""
    manager = signed_in(server, store=store)
    first, theirs = manager.token(), State.first(server.sign_in_token())
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))

    def unreadable():
        store.before["load"] = lambda: raise_(OSError(5, "Input/output error"))
        MemoryStore.replace(store, theirs, None)

    manager.renew(first)
    store.before["replace"] = unreadable
    until(lambda: "failed after a save" in caplog.text)
    store.exclusive(5).release()
    assert manager.signed_in
    assert manager.token() is theirs.token


def test_no_thread_can_be_started_to_save_again(server, store, no_saver, caplog):
    """P4: the log says so, and the next refresh saves the token."""
    manager = signed_in(server, store=store)
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    second = manager.renew(manager.token())
    until(lambda: "the next refresh saves it" in caplog.text)
    manager.renew(second)
    assert store.load().generation == 3


# -- a lock that cannot be released --------------------------------------------------------


@pytest.fixture
def release_fails(store):
    """Have the store raise at each release, as Redis clients do if the lock has expired."""
    store.always("released", lambda: raise_(LockError("lock canary-secret is no longer owned")))
    return store


class LockError(Exception):
    pass


FAILED = "test_store_trouble.Scripted failed"
LOCK_NOT_RELEASED = f"the store's lock could not be released: {FAILED}: LockError"


def test_a_release_that_raises_after_the_save(server, release_fails, caplog):
    """P2, P12: the token is saved, so the refresh succeeded: callbacks are called and no backoff
    begins. The log has only the type of the error, whose message may contain a secret."""
    refreshed, told = [], threading.Event()

    def on_event(event):
        refreshed.append(event.kind)
        told.set()

    manager = signed_in(
        server, store=release_fails, on_refreshed=refreshed.append, on_event=on_event
    )
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).outcomes() == [manager.token()] * CROWD
    second = release_fails.load().token
    assert told.wait(10)
    assert refreshed == [second, "refreshed"]
    assert manager.stats.failures == 0
    assert LOCK_NOT_RELEASED in caplog.text
    assert "canary-secret" not in caplog.text
    # At once, by the real clock: there is no backoff.
    assert manager.renew(second) is release_fails.load().token is not second
    assert server.counters.granted == 2


def test_a_release_that_raises_after_another_process_refreshed(server, release_fails, caplog):
    """P1: the other process's token is used."""
    manager, store = signed_in(server, store=release_fails), release_fails
    first, theirs = manager.token(), State.first(server.sign_in_token())
    store.before["lock"] = lambda: store.before.update(
        load=lambda: MemoryStore.replace(store, theirs, None)
    )
    assert manager.renew(first) is theirs.token
    assert manager.finish(10)
    assert (manager.stats.failures, manager.stats.adopted) == (0, 1)
    assert LOCK_NOT_RELEASED in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (400, '{"error": "invalid_grant"}', SessionExpired),
        (503, "", RefreshUnavailable),
        (401, '{"error": "invalid_client"}', RefreshFailed),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_release_that_raises_hides_no_failure(
    server, release_fails, caplog, status, body, raised
):
    """P6, P9: all requests get the server's error, and the session ends only if it was refused."""
    manager = signed_in(server, store=release_fails)
    first = manager.token()
    server.fault("token", times=None, status=status, body=body)
    outcomes = Crowd(lambda: manager.renew(first)).outcomes()
    assert {(type(error), error.status_code) for error in outcomes} == {(raised, status)}
    assert manager.signed_in is (raised is not SessionExpired)
    assert server.counters.exchanges == 1
    assert LOCK_NOT_RELEASED in caplog.text


@pytest.fixture
def unsaved(server, store, no_saver, caplog):
    """A manager with an unsaved token, whose lock cannot be released; no thread saves it."""
    manager = signed_in(server, store=store)
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    manager.renew(manager.token())
    until(lambda: "the next refresh saves it" in caplog.text)
    with pytest.raises(StoreUnavailable):
        store.exclusive(0)  # the lock is kept
    store.always("released", lambda: raise_(LockError("lock canary-secret is no longer owned")))
    return manager


def test_a_release_that_raises_after_a_token_was_saved_at_last(server, store, unsaved, caplog):
    """P4: the next refresh saves it first and then goes on."""
    second = unsaved.token()
    third = unsaved.renew(second)
    assert store.load().token is third is unsaved.token()
    assert unsaved.finish(10)
    assert unsaved.stats.failures == 0
    assert caplog.text.count(LOCK_NOT_RELEASED) == 2


def test_a_release_that_raises_after_a_later_token_was_saved(server, store, unsaved, caplog):
    """P4: the next refresh cannot save it either, and saves the token that it gets instead."""
    second = unsaved.token()
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    third = unsaved.renew(second)
    assert store.load().token is third is unsaved.token() is not second
    assert store.load().generation == 3
    assert unsaved.finish(10)
    assert unsaved.stats.failures == 0
    assert LOCK_NOT_RELEASED in caplog.text


def test_a_release_that_raises_after_an_unsaved_token_was_refused(server, store, unsaved, caplog):
    """P9: the session is over, in this process at least."""
    second = unsaved.token()
    store.always("replace", lambda: raise_(OSError(28, "No space left on device")))
    refuse(server)
    assert type(outcome_of(lambda: unsaved.renew(second))) is SessionExpired
    assert type(outcome_of(unsaved.token)) is SessionExpired
    assert LOCK_NOT_RELEASED in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_release_that_ends_its_thread_is_not_logged(server, store, manager, caplog):
    """P5: SystemExit ends the worker. The token is saved and used, and no request hangs."""
    first = manager.token()
    store.before["released"] = lambda: raise_(SystemExit())
    assert manager.renew(first) is store.load().token
    until_the_worker_has_ended()
    assert manager.stats.failures == 1
    assert LOCK_NOT_RELEASED[:20] not in caplog.text


# -- late answers ----------------------------------------------------------------------


@pytest.fixture
def late(server, store):
    """A manager whose only exchange outlived its timeout; ``release()`` lets that return."""
    grant = RefreshTokenGrant(
        server.token_endpoint, "client", revocation_endpoint=server.revocation_endpoint
    )
    go_on, returned = threading.Event(), threading.Event()

    def refresh(token):
        granted = grant(token)
        assert go_on.wait(10)
        returned.set()
        return granted

    def release():
        go_on.set()
        assert returned.wait(10)
        until(lambda: not any(t.name.endswith("exchange") for t in threading.enumerate()))

    refresh.timeout = 0.02
    refresh.revoke = grant.revoke
    manager = signed_in(server, refresh=refresh, store=store)
    outcome_of(lambda: manager.renew(manager.token()))
    manager.release = release
    return manager


def test_a_late_answer_after_a_sign_in_is_dropped(server, store, late):
    """P4: the sign-in stays; the late token is not revoked and simply expires."""
    mine = server.sign_in_token()
    late.sign_in(mine)
    late.release()
    assert late.token() is mine
    assert server.counters.revocations == 0


def test_a_late_answer_while_the_store_cannot_be_read(server, store, late, caplog):
    """P5: the failure is logged, because no caller is left to raise it to."""
    MemoryStore.replace(store, State.first(server.sign_in_token()), None)
    store.before["load"] = lambda: raise_(OSError(5, "Input/output error"))
    late.release()
    assert f"the store failed when a late answer came: {FAILED}: OSError" in caplog.text


def test_a_late_result_that_is_no_token_is_ignored(server):
    """P8: the callable outlives its timeout and then returns ``None``."""
    go_on = threading.Event()

    def refresh(token):
        go_on.wait(10)

    refresh.timeout = 0.02
    manager = signed_in(server, refresh=refresh)
    first = manager.token()
    outcome_of(lambda: manager.renew(first))
    go_on.set()
    until(lambda: not any(t.name.endswith("exchange") for t in threading.enumerate()))
    assert manager.token() is first


# -- while somebody is asked to sign in ---------------------------------------------------


def refuse(server):
    server.fault("token", times=None, status=400, body='{"error": "invalid_grant"}')


def test_a_store_that_cannot_be_read_while_somebody_is_asked(server, store, monkeypatch):
    """P10: the worker cannot look for a sign-in elsewhere, but uses the callback's token."""
    # No parameter sets this interval.
    monkeypatch.setattr("requests_silent_refresh.manager.sign_in_again.LOOK_INTERVAL", 0.02)
    looked = threading.Event()

    def sign_in(error):
        store.before["load"] = lambda: (looked.set(), raise_(OSError(5, "Input/output error")))
        assert looked.wait(10)
        return server.sign_in_token()

    manager = signed_in(server, store=store, on_session_expired=sign_in)
    first = manager.token()
    refuse(server)
    assert Crowd(lambda: manager.renew(first)).kinds() == {"Token": CROWD}


def test_a_late_sign_in_that_cannot_be_saved(server, store, caplog):
    """P10: the failure is logged, and the session stays over."""
    go_on = threading.Event()

    def sign_in(error):
        assert go_on.wait(10)
        store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
        return server.sign_in_token()

    manager = signed_in(server, store=store, on_session_expired=sign_in, sign_in_timeout=0.05)
    refuse(server)
    with pytest.raises(SessionExpired, match=r"nobody signed in (in time|within 0.05 s)"):
        manager.renew(manager.token())
    until_the_worker_has_ended()
    go_on.set()
    told = f"a late sign-in could not be saved: {FAILED}: OSError"
    until(lambda: told in caplog.text)
    assert not manager.signed_in


def test_a_store_that_can_neither_be_wiped_nor_read(server, store, caplog):
    """P9: the session is over in this process all the same."""
    manager = signed_in(server, store=store)
    first = manager.token()

    def broken():
        store.before["load"] = lambda: raise_(OSError(5, "Input/output error"))
        raise OSError(5, "Input/output error")

    store.before["replace"] = broken
    refuse(server)
    assert type(outcome_of(lambda: manager.renew(first))) is SessionExpired
    assert type(outcome_of(manager.token)) is SessionExpired
    assert "could not be wiped" in caplog.text
