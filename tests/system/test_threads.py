"""``start_daemon``: a signal handler may raise while a thread starts (P8)."""

from __future__ import annotations

import signal
import threading

import pytest

from requests_silent_refresh.system.threads import start_daemon

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a system without signals")

START = next(
    name for name in ("_start_joinable_thread", "_start_new_thread") if hasattr(threading, name)
)


@pytest.mark.parametrize("kind", [TimeoutError, RuntimeError])
def test_what_a_handler_raises_as_the_thread_begins_is_raised(monkeypatch, kind):
    """Not the ``KeyError`` that ``Thread.start`` makes of it, and never taken for a failure."""
    start, runs = getattr(threading, START), []
    begun = threading.Event()

    def run():
        runs.append(1)
        begun.set()

    def start_and_signal(*args, **kwargs):
        started = start(*args, **kwargs)
        assert begun.wait(10)
        signal.raise_signal(signal.SIGUSR1)
        return started

    def handle(number, frame):
        raise kind("from the handler")

    monkeypatch.setattr(threading, START, start_and_signal)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(kind, match="from the handler"):
            start_daemon("a thread", run)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert runs == [1]


def test_no_thread_can_be_started(monkeypatch):
    """The caller is told so, and nothing has begun."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, START, refuse)
    assert not start_daemon("a thread", lambda: pytest.fail("it began"))
