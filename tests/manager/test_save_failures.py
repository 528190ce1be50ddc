"""P4: a save fails after the exchange: what this process does, and what another one sees."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from file_faults import fail_with, tapped
from queue_kit import (
    CROWD,
    Clock,
    Crowd,
    assert_no_token_was_spent_twice,
    outcome_of,
    session_for,
    signed_in,
    until,
)

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RefreshTokenGrant,
    StoreUnavailable,
    TokenManager,
)
from requests_silent_refresh.stores.contract import State

KEY = b"k" * 43 + b"="


class Failing(MemoryStore):
    """An application's store that fails the next ``times`` saves."""

    def __init__(self, trouble=None):
        super().__init__()
        self.trouble = trouble or OSError(errno.ENOSPC, "No space left on device")
        self.times = 0
        self.failed = 0

    def replace(self, new, after):
        if self.times > 0:
            self.times -= 1
            self.failed += 1
            raise self.trouble
        super().replace(new, after)


def refresh_with(store, manager):
    """Refresh while each save fails; return the token, which is in memory only."""
    store.times = 1_000_000
    first = manager.token()
    token = manager.renew(first)
    assert token is not first
    return token


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreUnavailable("the engine is down"),
        RuntimeError("a driver's own error"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_the_new_token_is_used_and_saved_at_last(server, quick, caplog, trouble):
    """P4: the old one is spent, so 32 waiting requests use the new one. The failure is logged as an
    error (not at each attempt), and the save is tried again until it succeeds."""
    caplog.set_level(logging.WARNING, "requests_silent_refresh")
    store = Failing(trouble)
    manager = signed_in(server, store=store)
    store.times = 5
    server.gate(CROWD, then=server.revoke_access_tokens)
    with session_for(manager, server) as session:
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    until(lambda: store.load().generation == 2)
    assert store.load().token is manager.token()
    until(lambda: "has been saved now" in caplog.text)
    levels = [r.levelname for r in caplog.records]
    assert levels == ["ERROR", "WARNING"]
    assert "used from memory" in caplog.text
    store.exclusive(30).release()
    assert server.counters.exchanges == 1


def test_another_manager_gets_an_error_that_names_the_holder(server, quick):
    """P4: it never sends the spent token, which is still stored. After the save it goes on."""
    store = Failing()
    manager = signed_in(server, store=store)
    token = refresh_with(store, manager)
    grant = RefreshTokenGrant(server.token_endpoint, "client")
    clock = Clock()
    other = TokenManager(grant, store, refresh_ahead=0, wait_timeout=0.2, monotonic=clock)
    stale = other.token()
    with pytest.raises(StoreUnavailable) as caught:
        other.renew(stale)
    assert caught.value.holder == "this process"
    assert server.counters.exchanges == 1

    store.times = 0
    until(lambda: store.load().generation == 2)
    clock.advance(1)
    assert other.renew(stale) is token
    assert server.counters.exchanges == 1


def test_the_next_refresh_exchanges_the_token_in_memory(server):
    """P1, P4: the unsaved token is the newest, and the spent one is never sent again."""
    store = Failing()
    manager = signed_in(server, store=store)
    second = refresh_with(store, manager)
    third = manager.renew(second)
    assert manager.renew(third) is manager.token()
    assert server.counters.granted == 3
    assert store.load().generation == 1
    store.times = 0
    until(lambda: store.load().generation == 4)
    assert store.load().token is manager.token()
    assert_no_token_was_spent_twice(server)


def test_the_next_refresh_saves_first(server, no_saver):
    """P4: even if no background thread could be started to save the token."""
    store = Failing()
    manager = signed_in(server, store=store)
    second = refresh_with(store, manager)
    store.times = 0
    manager.renew(second)
    assert store.load().generation == 3
    store.exclusive(5).release()


def test_a_refusal_of_a_token_that_was_not_saved(server):
    """P4, P9: the session is over in this process, and the lock is free."""
    store, clock = Failing(), Clock()
    manager = signed_in(server, store=store, monotonic=clock)
    second = refresh_with(store, manager)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    assert type(outcome_of(lambda: manager.renew(second))).__name__ == "SessionExpired"
    store.exclusive(5).release()
    assert store.load().generation == 1
    clock.advance(100)
    assert type(outcome_of(manager.token)).__name__ == "SessionExpired"


def test_a_refused_token_that_cannot_be_wiped(server, caplog):
    """P9: the session is over all the same, and the token is never sent again."""
    store = Failing()
    manager = signed_in(server, store=store)
    first = manager.token()
    store.times = 1_000_000
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    assert type(outcome_of(lambda: manager.renew(first))).__name__ == "SessionExpired"
    assert type(outcome_of(manager.token)).__name__ == "SessionExpired"
    assert "could not be wiped" in caplog.text
    assert not manager.signed_in
    assert server.counters.exchanges == 1


def test_a_sign_in_while_a_token_is_unsaved_wins(server, quick):
    """P4: the thread that saves finds another state, drops its token and releases the lock."""
    store = Failing()
    manager = signed_in(server, store=store)
    refresh_with(store, manager)
    store.times = 0
    mine = server.sign_in_token()
    manager.sign_in(mine)
    store.exclusive(30).release()
    assert store.load().token is mine is manager.token()


def test_a_sign_in_during_the_exchange_wins_even_if_the_result_cannot_be_saved(server):
    """P4: the failing store does not report the sign-in, but the published state shows it."""
    store = Failing()
    manager = signed_in(server, store=store)
    first, mine = manager.token(), server.sign_in_token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first), size=2)
        assert held.arrived.wait(10)
        manager.sign_in(mine)
        store.times = 1_000_000
    crowd.outcomes()
    assert manager.finish(10)  # with a token to save it would be False
    assert manager.token() is mine


def test_a_sign_out_revokes_an_unsaved_token(server, quick):
    """P4: it is the newest token, and only this process knows it."""
    store = Failing()
    manager = signed_in(server, store=store)
    refresh_with(store, manager)
    store.times = 0
    manager.sign_out()
    granted = server.log.of("exchange", outcome="granted")[0]
    assert server.log.of("revocation")[0].refresh == granted.issued_refresh
    assert store.load().token is None
    store.exclusive(30).release()


def test_a_sign_in_elsewhere_while_a_token_is_unsaved(server, quick):
    """P4: the thread that saves adopts it, without any call in this process."""
    store = Failing()
    manager = signed_in(server, store=store)
    refresh_with(store, manager)
    theirs = server.sign_in_token()
    MemoryStore.replace(store, State.first(theirs), None)
    store.times = 0
    until(lambda: manager.token() is theirs)
    store.exclusive(5).release()


def test_a_store_that_falls_behind_during_the_exchange(server):
    """P4: an engine that failed over to an older copy gets the newer state back."""

    class FailsOver(MemoryStore):
        def fall_back_to(self, state):
            self._state = state  # replace() refuses to write an older generation

    store = FailsOver()
    manager = signed_in(server, store=store)
    old = store.load()
    second = manager.renew(manager.token())
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(second), size=1)
        assert held.arrived.wait(10)
        store.fall_back_to(old)
    (third,) = crowd.outcomes()
    assert store.load().generation == 3
    store.fall_back_to(old)
    server.revoke_access_tokens()
    manager.renew(third)
    assert store.load().generation == 4
    assert_no_token_was_spent_twice(server)


def test_a_full_disk_is_noticed_before_the_refresh_token_is_spent(server, tmp_path):
    """P4: the file store reserves the space before the exchange."""
    store, clock = EncryptedFileStore(tmp_path / "tokens", KEY), Clock()
    manager = signed_in(server, store=store, monotonic=clock)
    first = manager.token()
    with tapped("posix_fallocate", fail_with(errno.ENOSPC)) as tap:
        error = outcome_of(lambda: manager.renew(first))
    assert "posix_fallocate" in tap.calls
    assert type(error) is StoreUnavailable
    assert "No space left" in str(error)
    assert server.counters.exchanges == 0
    clock.advance(1)
    assert manager.renew(first) is not first


def test_a_file_that_cannot_be_written_after_the_exchange(server, tmp_path, quick):
    """P4: the disk becomes read-only. Another process waits, and its error names the holder of the
    lock. After the save it goes on with the saved token."""
    path = tmp_path / "tokens"
    manager = signed_in(server, store=EncryptedFileStore(path, KEY))
    first = manager.token()
    broken = threading.Event()
    broken.set()

    def refuse(name):
        if broken.is_set() and server.counters.granted:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with tapped("replace", refuse):
        token = manager.renew(first)
        server.revoke_access_tokens()
        told = ask_in_another_process(server, path, 0.5)
        assert told["type"] == "StoreUnavailable"
        assert f"process {os.getpid()} on " in told["holder"]
        assert server.counters.exchanges == 1
        broken.clear()
        until(lambda: EncryptedFileStore(path, KEY).load().generation == 2)
    told = ask_in_another_process(server, path, 5)
    assert told["type"] == "Token"
    assert server.counters.exchanges == 2
    assert manager.renew(token).access_token.reveal() == told["token"]
    assert_no_token_was_spent_twice(server)


ANOTHER = textwrap.dedent(
    """
    import json, sys
    from requests_silent_refresh import *

    path, endpoint, wait = sys.argv[1:]
    store = EncryptedFileStore(path, b"k" * 43 + b"=")
    manager = TokenManager(
        RefreshTokenGrant(endpoint, "client"), store, refresh_ahead=0, wait_timeout=float(wait)
    )
    try:
        token = manager.renew(manager.token())
        told = {"token": token.access_token.reveal()}
    except SilentRefreshError as error:
        token, told = error, {"holder": getattr(error, "holder", None), "error": str(error)}
    print(json.dumps({"type": type(token).__name__, **told}))
    """
)


def ask_in_another_process(server, path, wait):
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER, str(path), server.token_endpoint, str(wait)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


AT_EXIT = textwrap.dedent(
    """
    import logging, os, sys, threading
    from requests_silent_refresh import *
    from requests_silent_refresh.system import private_files

    logging.basicConfig(format="%(levelname)s %(message)s")
    path, endpoint, how = sys.argv[1:]
    manager = TokenManager(
        RefreshTokenGrant(endpoint, "client", timeout=5),
        EncryptedFileStore(path, b"k" * 43 + b"="),
        refresh_ahead=0,
    )
    first = manager.token()
    call, broken, tried_again = private_files.call, [True], threading.Event()

    def failing(function, /, *args, **kwargs):
        if function is os.replace and broken and manager.stats.exchanges:
            if threading.current_thread().name == "silent-refresh-save":
                tried_again.set()
            raise OSError(28, "No space left on device")
        return call(function, *args, **kwargs)

    private_files.call = failing
    second = manager.renew(first)
    if how == "in a backoff":
        try:
            manager.renew(second)
        except RefreshUnavailable as error:
            print("backoff")
    if how == "for good":
        assert tried_again.wait(30)
    else:
        broken.clear()
    """
)


@pytest.mark.parametrize("how", ["mended", "in a backoff", "for good"])
def test_an_unsaved_token_is_saved_at_exit(server, tmp_path, how):
    """P4, P5: even during a backoff. If that fails too, the log says that the token is lost, and
    the thread that goes on trying does not keep the process from ending."""
    path = tmp_path / "tokens"
    store = EncryptedFileStore(path, KEY)
    store.save(server.sign_in_token(), after=None)
    if how == "in a backoff":  # the second exchange meets a busy server
        server.on("/token", lambda request, answer: server.fault("token", status=503))
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(path), server.token_endpoint, how],
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    )
    assert ("backoff" in done.stdout) is (how == "in a backoff")
    assert "ERROR the refreshed token could not be saved" in done.stderr
    if how == "for good":
        assert store.load().generation == 1
        assert "the refreshed token is lost" in done.stderr
    else:
        assert store.load().generation == 2
        assert "has been saved now" in done.stderr


def test_the_log_of_a_failed_save_shows_no_secret(server, caplog, quick):
    """P12: a driver's error may quote the token, so only its type is logged."""

    class Quoting(Failing):
        def replace(self, new, after):
            if self.times > 0 and new.token is not None:
                self.times -= 1
                raise RuntimeError(f"INSERT failed: {new.token.access_token.reveal()}")
            super().replace(new, after)

    store = Quoting()
    manager = signed_in(server, store=store)
    store.times = 3
    token = manager.renew(manager.token())
    until(lambda: store.load().generation == 2)
    assert "RuntimeError" in caplog.text
    assert token.access_token.reveal() not in caplog.text
