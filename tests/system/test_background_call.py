"""Calls that are left behind, joined by several threads, or interrupted before they start."""

from __future__ import annotations

import threading

import pytest
from queue_kit import Crowd

from requests_silent_refresh.system.background_call import Call


def never_late(result):
    pytest.fail("the result was taken for a late one")


@pytest.fixture
def no_threads(monkeypatch):
    """Let no thread of a call start, while ``limit`` is set."""
    start, limit = threading.Thread.start, threading.Event()
    limit.set()

    def refuse(thread):
        if limit.is_set() and thread.name == "call":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return limit


def test_a_call_starts_when_it_is_first_waited_for():
    """It can be made with a lock held."""
    called = threading.Event()
    call = Call(called.set, never_late, "call")
    assert not called.is_set()
    assert not call.ended
    assert call.result(10) is None
    assert called.is_set()


def test_threads_that_join_a_call_run_it_once():
    """The number of waiting threads makes no difference."""
    calls = []
    call = Call(lambda: calls.append(1), never_late, "call")
    assert set(Crowd(lambda: call.wait(10)).outcomes()) == {True}
    assert calls == [1]


def test_a_starter_that_is_interrupted_is_replaced(monkeypatch):
    """P8: an exception of a signal handler just before the start holds nobody up."""
    monkeypatch.setattr("requests_silent_refresh.system.awake_time.STEP", 0.01)
    call = Call(lambda: "result", never_late, "call")

    def interrupted(thread):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call.wait(10)
    assert call.result(10) == "result"


def test_a_call_that_no_thread_can_be_started_for(no_threads):
    """It runs in the thread that waits first; others can still stop waiting for it."""
    begun, go = threading.Event(), threading.Event()
    call = Call(lambda: begun.set() or go.wait(60), never_late, "call")
    assert not call.start()
    assert not begun.is_set()
    first = threading.Thread(target=call.wait, args=(0,))
    first.start()
    assert begun.wait(10)
    assert not call.wait(0.01)
    go.set()
    first.join()
    assert call.result(0) is True


def test_a_call_that_could_not_be_started_is_started_later(no_threads):
    """A failed start is not the last one."""
    call = Call(threading.current_thread, never_late, "call")
    assert not call.start()
    no_threads.clear()
    assert call.start()
    assert call.result(10) is not threading.current_thread()
