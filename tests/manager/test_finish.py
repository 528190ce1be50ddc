"""``finish`` and ``take_over``: for programs that leave without Python's exit handlers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from queue_kit import Crowd, assert_no_token_was_spent_twice, outcome_of, signed_in, until

from requests_silent_refresh import EncryptedFileStore, MemoryStore, SessionExpired, Token

KEY = b"k" * 43 + b"="


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def manager(server, store):
    return signed_in(server, store=store)


class Failing(MemoryStore):
    """A store whose disk is full while ``full`` is set."""

    full = False

    def replace(self, new, after):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().replace(new, after)


# -- finish ------------------------------------------------------------------------------------


def test_it_waits_for_the_refresh_under_way(server, store, manager):
    """P5: ``False`` while the server holds the answer, ``True`` once the token is saved."""
    with server.token_gate(processed=True) as held:
        manager.start_refresh(manager.token())
        assert held.arrived.wait(10)
        assert manager.finish(0.05) is False
        finishing = Crowd(manager.finish, size=2)
        held.release()
        assert finishing.outcomes() == [True, True]
    assert store.load().generation == 2
    assert store.load().token is manager.token()


def test_it_returns_at_once_if_nothing_is_to_be_done(server, manager):
    """P8: before the first refresh, and after the end of the session."""
    began = time.monotonic()
    assert manager.finish(60)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    assert type(outcome_of(lambda: manager.renew(manager.token()))) is SessionExpired
    assert manager.finish(60)
    assert time.monotonic() - began < 30


def test_it_keeps_no_later_request_from_refreshing(server, manager):
    """P2: a process that is frozen and resumed goes on as before."""
    first = manager.token()
    second = manager.renew(first)
    assert manager.finish(10)
    assert manager.renew(second) is manager.token() is not second
    assert server.counters.exchanges == 2


def test_it_saves_a_token_that_could_not_be_saved(server, no_saver, caplog):
    """P4: ``False`` and an error in the log while the disk is full, ``True`` after the save."""
    store = Failing()
    manager = signed_in(server, store=store)
    store.full = True
    second = manager.renew(manager.token())
    assert manager.finish(10) is False
    assert "the refreshed token is lost if the process ends now" in caplog.text
    assert store.load().generation == 1
    store.full = False
    assert manager.finish(10) is True
    assert store.load().token is second
    assert server.counters.exchanges == 1


def test_it_waits_for_callbacks(server):
    """A program that writes the token down in ``on_refreshed`` has written it before it leaves."""
    begun, go_on, written = threading.Event(), threading.Event(), []

    def write_down(token):
        begun.set()
        assert go_on.wait(10)
        written.append(token)

    manager = signed_in(server, on_refreshed=write_down)
    second = manager.renew(manager.token())
    assert begun.wait(10)
    assert manager.finish(0.05) is False  # after the 2 s that callbacks have at least
    finishing = Crowd(lambda: manager.finish(30), size=1)
    go_on.set()
    assert finishing.outcomes() == [True]
    assert written == [second]


def test_it_does_not_wait_for_a_person(server):
    """P10: a sign-in may take minutes, and saves its own token."""
    asked, release = threading.Event(), threading.Event()

    def sign_in(error):
        asked.set()
        assert release.wait(60)

    manager = signed_in(server, on_session_expired=sign_in)
    rejected = manager.token()
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    crowd = Crowd(lambda: manager.renew(rejected), size=1)
    assert asked.wait(10)
    began = time.monotonic()
    assert manager.finish(60)
    assert time.monotonic() - began < 30
    release.set()
    assert crowd.kinds() == {"SessionExpired": 1}


@pytest.mark.parametrize("callback", ["refresh", "on_session_expired"])
def test_in_a_callback_it_returns_at_once(server, callback):
    """P8: it does not wait for the refresh that waits for this callback."""
    answers, took = [], []

    def finish(argument):
        began = time.monotonic()
        answers.append(manager.finish(60))
        took.append(time.monotonic() - began)

    def refresh(token):
        if callback == "refresh":
            finish(token)
            return Token("second", "refresh")
        raise SessionExpired("refused")

    manager = signed_in(server, refresh=refresh, on_session_expired=finish)
    outcome_of(lambda: manager.renew(manager.token()))
    # A refresh that has not returned is not saved. A callback that asks a person holds nothing up.
    assert answers == [callback == "on_session_expired"]
    assert took[0] < 30


LEAVE = textwrap.dedent(
    """
    import os, sys, threading, time
    from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, TokenManager

    path, endpoint = sys.argv[1:]
    store = EncryptedFileStore(path, b"k" * 43 + b"=")
    manager = TokenManager(RefreshTokenGrant(endpoint, "client"), store, refresh_ahead=0)
    manager.start_refresh(manager.token())
    sys.stdin.readline()
    print("leaving", flush=True)
    finished = manager.finish()
    print(finished, flush=True)
    os._exit(0)
    """
)


def test_before_os_exit_it_saves(server, tmp_path):
    """P5: no exit handler runs after ``os._exit``, so ``finish`` does their work."""
    path = tmp_path / "tokens"
    EncryptedFileStore(path, KEY).save(server.sign_in_token(), after=None)
    with (
        server.token_gate(processed=True) as held,
        subprocess.Popen(
            [sys.executable, "-c", LEAVE, str(path), server.token_endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert held.arrived.wait(30)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "leaving\n"
        assert EncryptedFileStore(path, KEY).load().generation == 1
        held.release()
        assert process.communicate(timeout=60)[0] == "True\n"
    assert process.returncode == 0
    assert EncryptedFileStore(path, KEY).load().generation == 2
    assert server.counters.exchanges == 1


# -- take_over ---------------------------------------------------------------------------------

DAEMONISE = textwrap.dedent(
    """
    import os, signal, sys, warnings
    from requests_silent_refresh import MemoryStore, RefreshTokenGrant, StoreError, TokenManager

    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    endpoint, first, takes_over = sys.argv[1:]
    manager = TokenManager(RefreshTokenGrant(endpoint, "client"), MemoryStore(), refresh_ahead=0)
    manager.sign_in(first)
    second = manager.renew(None)
    assert manager.finish()
    if os.fork():
        os._exit(0)
    signal.alarm(30)  # fails instead of hanging
    if takes_over == "yes":
        manager.take_over()
    try:
        third = manager.renew(second)
        fourth = manager.renew(third)
        print(len({token.access_token.reveal() for token in (second, third, fourth)}))
    except StoreError as error:
        print(error)
    print(manager.finish(), flush=True)
    os._exit(0)
    """
)


def daemonise(server, takes_over):
    """Run a program that refreshes once and goes on in a forked child; return what it printed."""
    refresh_token = server.sign_in_token().refresh_token.reveal()
    done = subprocess.run(
        [sys.executable, "-c", DAEMONISE, server.token_endpoint, refresh_token, takes_over],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_child_takes_over_the_session_in_memory(server):
    """P1: the child of a program that daemonises refreshes with the parent's refresh token."""
    assert daemonise(server, "yes") == ["3", "True"]
    assert server.counters.exchanges == server.counters.granted == 3
    assert_no_token_was_spent_twice(server)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_child_that_does_not_take_over_refreshes_nothing(server):
    """P1: the refresh token is the parent's to spend, and the error says which store to use."""
    error, finished = daemonise(server, "no")
    assert "was copied by fork()" in error
    assert "EncryptedFileStore" in error
    assert finished == "True"
    assert server.counters.exchanges == 1


def test_a_process_that_was_not_forked_may_take_over(server, store, manager):
    """P1: nothing changes for a process that owns its session already."""
    manager.take_over()
    manager.renew(manager.token())
    until(lambda: store.load().generation == 2)
    assert server.counters.exchanges == 1


# -- what finish counts as done ------------------------------------------------------------


def test_an_exchange_that_outlives_a_sign_out_is_waited_for(server, manager):
    """P5: its result is dropped and revoked, which is work that a frozen process must not leave."""
    with server.token_gate(processed=True) as held:
        manager.start_refresh(manager.token())
        assert held.arrived.wait(10)
        manager.sign_out()
        assert manager.finish(0.05) is False
        held.release()
        assert manager.finish(30) is True
    assert len(server.log.of("revocation")) == 2


def test_it_waits_until_the_application_was_told(server, manager, store):
    """The token is published first, and ``on_refreshed`` is called after that."""
    told, go_on = threading.Event(), threading.Event()

    def slow(token):
        told.set()
        assert go_on.wait(30)

    manager = signed_in(server, on_refreshed=slow)
    manager.renew(manager.token())
    assert told.wait(10)
    finishing = Crowd(lambda: manager.finish(30), size=1)
    go_on.set()
    assert finishing.outcomes() == [True]


def test_it_does_not_wait_for_the_callback_that_calls_it(server):
    """P8: ``on_refreshed`` may finish the manager before it ends the process."""
    said = []
    manager = signed_in(server, on_refreshed=lambda token: said.append(manager.finish(60)))
    began = time.monotonic()
    manager.renew(manager.token())
    until(lambda: said)
    assert said == [True]
    assert time.monotonic() - began < 30
