"""Stores that move, fail or lose their lock at each step of a refresh; users' own stores do."""

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
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    StoreUnavailable,
    TokenManager,
)
from requests_silent_refresh.stores.contract import Hold, State, StateMoved


class Scripted(MemoryStore):
    """Calls ``before[step]()`` before a step: ``load``, ``replace``, ``lock`` or ``send``.

    After the lock was given up it calls ``before["released"]()``. Each is called
    once, unless it puts itself back.
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
    """P1: this process was stopped between lock and send: it starts over, nothing was sent."""
    store.before["send"] = lambda: "lost"
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).kinds() == {"Token": CROWD}
    assert manager.stats.exchanges == server.counters.exchanges == 1


def test_a_lock_that_is_lost_each_time(server, store):
    """P1, P8: it ends before the waiters' deadline, and with the error of the store."""
    manager = signed_in(server, store=store, wait_timeout=2)
    store.always("send", lambda: "lost")
    with pytest.raises(StoreUnavailable, match="stopped before it could refresh"):
        manager.renew(manager.token())
    assert server.counters.exchanges == 0


def test_somebody_else_refreshed_before_the_lock_was_ours(server, store, manager):
    """P1: under the lock it is read again, and adopted."""
    other = other_manager(server, store)
    old = manager.token()
    # Somebody who refreshes and gives the lock up in the moment before we have it.
    store.before["lock"] = lambda: other.renew(other.token())
    assert manager.renew(old) is other.token()
    assert server.counters.exchanges == 1
    assert manager.stats.adopted == 1


def test_the_state_moved_just_when_we_had_the_lock(server, store, manager):
    """P1: the last look is under the lock; a sign-in, which takes none, may come even then."""
    old, mine = manager.token(), server.sign_in_token()

    def sign_in_after_the_lock():
        store.before["load"] = lambda: MemoryStore.replace(store, State.first(mine), None)

    store.before["lock"] = sign_in_after_the_lock
    assert manager.renew(old) is mine
    assert server.counters.exchanges == 0


def test_a_store_that_changes_faster_than_it_can_be_read(server, store):
    """P8: it says so, in time."""
    manager = signed_in(server, store=store, wait_timeout=1)
    store.always("lock", lambda: "moved")
    with pytest.raises(StoreUnavailable, match="faster than it can be read"):
        manager.renew(manager.token())


def test_what_somebody_published_meanwhile_is_not_published_over(server, store, manager):
    """P4: a thread that reads the store slowly looks again."""
    mine = server.sign_in_token()

    def sign_in_meanwhile():
        manager.sign_in(mine)

    theirs = State.first(server.sign_in_token())
    store.before["load"] = sign_in_meanwhile
    MemoryStore.replace(store, theirs, None)
    assert manager.signed_in
    assert manager.token() is mine


@pytest.mark.parametrize("moves", [True, False], ids=["meanwhile", "quietly"])
def test_a_store_that_fell_behind_gets_our_state_back(server, store, manager, moves):
    """P4: an engine that failed over to an older copy; also if that moves while we save."""
    fallen = store.load()
    second = manager.renew(manager.token())
    store._state = fallen
    if moves:
        store.before["replace"] = lambda: raise_(StateMoved(fallen))
    manager.renew(second)
    assert store.load().generation == 3
    assert_no_token_was_spent_twice(server)


def test_a_store_that_fell_behind_a_token_that_was_not_saved(server, store, monkeypatch):
    """P4: an engine that fails over while the save is tried again gets the newest state."""
    monkeypatch.setattr("requests_silent_refresh.manager.unsaved_token.SAVE_RETRY", 0.02)
    manager = signed_in(server, store=store)
    fallen = store.load()
    second = manager.renew(manager.token())

    def fall_over():
        store._state = fallen
        raise OSError(5, "Input/output error")

    store.before["replace"] = fall_over
    third = manager.renew(second)
    until(lambda: store.load().generation == 3)
    assert store.load().token is third


def raise_(error):
    raise error


def until_the_worker_has_ended():
    """What ends a thread is reported when that is over: not in the next test, please."""
    until(lambda: not any(t.name == "silent-refresh" for t in threading.enumerate()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_whose_thread_is_ended_loses_no_token(server, store, monkeypatch):
    """P5: the store's driver raises SystemExit after the exchange; the token is used from memory
    and saved by another thread."""
    monkeypatch.setattr("requests_silent_refresh.manager.unsaved_token.SAVE_RETRY", 0.02)
    manager = signed_in(server, store=store)
    first = manager.token()
    store.before["replace"] = lambda: raise_(SystemExit())
    second = manager.renew(first)
    assert second is manager.token() is not first
    until(lambda: store.load().token is second)
    until(lambda: manager._stored.unsaved.kept is None)
    until_the_worker_has_ended()
    assert server.counters.exchanges == 1


def test_a_store_that_fails_after_a_save_was_superseded(server, store, monkeypatch, caplog):
    """P4: the saver meets a sign-in, and then cannot read it: it gives the lock up and says so."""
    monkeypatch.setattr("requests_silent_refresh.manager.unsaved_token.SAVE_RETRY", 0.02)
    manager = signed_in(server, store=store)
    first, theirs = manager.token(), State.first(server.sign_in_token())
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))

    def unreadable():
        store.before["load"] = lambda: raise_(OSError(5, "Input/output error"))
        MemoryStore.replace(store, theirs, None)

    manager.renew(first)
    store.before["replace"] = unreadable
    until(lambda: "failed after a save" in caplog.text)
    assert manager._stored.unsaved.kept is None
    assert store._exclusive.acquire(timeout=5)
    assert manager.signed_in
    assert manager.token() is theirs.token


def test_no_thread_can_be_started_to_save_again(server, store, monkeypatch, caplog):
    """P4: the next refresh does it."""
    manager = signed_in(server, store=store)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-save":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    second = manager.renew(manager.token())
    until(lambda: "the next refresh saves it" in caplog.text)
    manager.renew(second)
    assert store.load().generation == 3


# -- a lock that cannot be given up --------------------------------------------------------


@pytest.fixture
def no_lock_is_given_up(store):
    """What the store raises at each release, as Redis clients do for a lock that ran out."""
    store.always("released", lambda: raise_(LockError("lock canary-secret is no longer owned")))
    return store


class LockError(Exception):
    pass


LOCK_NOT_RELEASED = "the store's lock could not be released: LockError"


def test_a_release_that_raises_after_the_save(server, no_lock_is_given_up, caplog):
    """P2, P12: the token is saved, so the refresh is done: everybody is told, nothing is held
    against the new token, and the error, which may quote what it likes, is named in the log."""
    refreshed, told = [], threading.Event()

    def on_event(event):
        refreshed.append(event.kind)
        told.set()

    manager = signed_in(
        server, store=no_lock_is_given_up, on_refreshed=refreshed.append, on_event=on_event
    )
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).outcomes() == [manager.token()] * CROWD
    second = no_lock_is_given_up.load().token
    assert told.wait(10)
    assert refreshed == [second, "refreshed"]
    assert manager.stats.failures == 0
    assert LOCK_NOT_RELEASED in caplog.text
    assert "canary-secret" not in caplog.text
    # At once, by the real clock: no backoff stands over it.
    assert manager.renew(second) is no_lock_is_given_up.load().token is not second
    assert server.counters.granted == 2


def test_a_release_that_raises_after_somebody_else_refreshed(server, no_lock_is_given_up, caplog):
    """P1: what they brought is used."""
    manager, store = signed_in(server, store=no_lock_is_given_up), no_lock_is_given_up
    first, theirs = manager.token(), State.first(server.sign_in_token())
    store.before["lock"] = lambda: store.before.update(
        load=lambda: MemoryStore.replace(store, theirs, None)
    )
    assert manager.renew(first) is theirs.token
    until(lambda: manager._queue._batch is None)
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
    server, no_lock_is_given_up, caplog, status, body, raised
):
    """P6, P9: what the server said is what everybody gets, and what is done about it."""
    manager = signed_in(server, store=no_lock_is_given_up)
    first = manager.token()
    server.fault("token", times=None, status=status, body=body)
    outcomes = Crowd(lambda: manager.renew(first)).outcomes()
    assert {(type(error), error.status_code) for error in outcomes} == {(raised, status)}
    assert manager.signed_in is (raised is not SessionExpired)
    assert server.counters.exchanges == 1
    assert LOCK_NOT_RELEASED in caplog.text


@pytest.fixture
def unsaved(server, store, monkeypatch):
    """A manager whose token was not saved, whose lock can't be given up, and nobody tries again."""
    monkeypatch.setattr(
        "requests_silent_refresh.manager.unsaved_token.UnsavedToken.keep_saving", lambda *a: None
    )
    manager = signed_in(server, store=store)
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    manager.renew(manager.token())
    until(lambda: manager._queue._batch is None)
    assert manager._stored.unsaved.kept is not None
    store.always("released", lambda: raise_(LockError("lock canary-secret is no longer owned")))
    return manager


def test_a_release_that_raises_after_a_token_was_saved_at_last(server, store, unsaved, caplog):
    """P4: the next refresh saves it first, and goes on."""
    second = unsaved.token()
    third = unsaved.renew(second)
    assert store.load().token is third is unsaved.token()
    until(lambda: unsaved._queue._batch is None)
    assert unsaved.stats.failures == 0
    assert caplog.text.count(LOCK_NOT_RELEASED) == 2


def test_a_release_that_raises_after_a_later_token_was_saved(server, store, unsaved, caplog):
    """P4: a save that still fails, an exchange, and a save that works: published all the same."""
    second = unsaved.token()
    store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
    third = unsaved.renew(second)
    assert store.load().token is third is unsaved.token() is not second
    assert store.load().generation == 3
    until(lambda: unsaved._queue._batch is None)
    assert unsaved.stats.failures == 0
    assert LOCK_NOT_RELEASED in caplog.text


def test_a_release_that_raises_after_an_unsaved_token_was_refused(server, store, unsaved, caplog):
    """P9: the session is over, here at the least."""
    second = unsaved.token()
    store.always("replace", lambda: raise_(OSError(28, "No space left on device")))
    refuse(server)
    assert type(outcome_of(lambda: unsaved.renew(second))) is SessionExpired
    assert type(outcome_of(unsaved.token)) is SessionExpired
    assert LOCK_NOT_RELEASED in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_release_that_ends_its_thread_is_no_warning(server, store, manager, caplog):
    """P5: SystemExit is meant for the thread; the token is saved and used, and nobody hangs."""
    first = manager.token()
    store.before["released"] = lambda: raise_(SystemExit())
    assert manager.renew(first) is store.load().token
    until_the_worker_has_ended()
    assert manager.stats.failures == 1
    assert LOCK_NOT_RELEASED[:20] not in caplog.text


# -- what comes late -------------------------------------------------------------------


@pytest.fixture
def late(server, store):
    """A manager whose only call was left behind; ``release()`` lets it return."""
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
    """P4: somebody signed in meanwhile, and stays; the late token is left to run out."""
    mine = server.sign_in_token()
    late.sign_in(mine)
    late.release()
    assert late.token() is mine
    assert server.counters.revocations == 0


def test_a_late_answer_while_the_store_cannot_be_read(server, store, late, caplog):
    """P5: nobody is above that thread to hear of it, so it is logged."""
    MemoryStore.replace(store, State.first(server.sign_in_token()), None)
    store.before["load"] = lambda: raise_(OSError(5, "Input/output error"))
    late.release()
    assert "the store failed when a late answer came: OSError" in caplog.text


def test_something_late_that_is_no_token_is_ignored(server):
    """P8: a callable that hangs and then returns nothing."""
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
    """P10: the looks for a sign-in elsewhere fail, the callback's token counts all the same."""
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
    """P10: it is logged; the session stays over."""
    go_on = threading.Event()

    def sign_in(error):
        assert go_on.wait(10)
        store.before["replace"] = lambda: raise_(OSError(28, "No space left on device"))
        return server.sign_in_token()

    manager = signed_in(server, store=store, on_session_expired=sign_in, sign_in_timeout=0.05)
    refuse(server)
    with pytest.raises(SessionExpired, match=r"nobody signed in (in time|within 0.05 s)"):
        manager.renew(manager.token())
    until(lambda: manager._queue._batch is None)
    go_on.set()
    until(lambda: "a late sign-in could not be saved: OSError" in caplog.text)
    assert not manager.signed_in


def test_a_store_that_can_neither_be_wiped_nor_read(server, store, caplog):
    """P9: the session is over in this process, whatever the store can do."""
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
