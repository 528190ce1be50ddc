"""``uninterrupted``: signal handlers are put off while a refresh runs in the caller (P5)."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import sys
import threading

import pytest

from requests_silent_refresh.system import signals
from requests_silent_refresh.system.signals import uninterrupted

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a system without signals")


class Raised(Exception):
    """What a handler raises."""


class Handlers:
    """Handlers of three signals. Each notes its signal; those in ``raising`` raise it as well."""

    def __init__(self, *raising):
        self.numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self.raising = raising
        self.came = []

    def __call__(self, number, frame):
        self.came.append(number)
        if number in self.raising:
            raise Raised(number)

    def __enter__(self):
        self._before = [signal.signal(number, self) for number in self.numbers]
        return self

    def __exit__(self, *exception):
        for number, handler in zip(self.numbers, self._before, strict=True):
            signal.signal(number, handler)

    def are_installed(self):
        return all(signal.getsignal(number) is self for number in self.numbers)


def raise_all(*numbers):
    for number in numbers:
        signal.raise_signal(number)


def test_each_arrival_is_handled_once_afterwards_and_in_order():
    """P5: none while the work runs, and its result is returned."""
    arrivals = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    with Handlers() as handlers:

        def work():
            raise_all(*arrivals)
            return list(handlers.came)

        assert uninterrupted(work) == []
        assert handlers.came == arrivals
        assert handlers.are_installed()


def test_what_a_handler_raises_is_raised_after_the_work():
    """P5: the other handlers are called all the same, and each exception is in the chain."""
    with Handlers(signal.SIGINT, signal.SIGTERM) as handlers:
        done = []
        with pytest.raises(Raised) as raised:
            uninterrupted(
                lambda: done.append(raise_all(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
            )
        assert len(done) == 1
        assert handlers.came == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        assert raised.value.args == (signal.SIGTERM,)
        assert raised.value.__context__.args == (signal.SIGINT,)
        assert handlers.are_installed()


def test_the_works_own_exception_is_raised():
    """P5: the handlers are put back after it, and called."""
    with Handlers() as handlers:
        with pytest.raises(ZeroDivisionError):
            uninterrupted(lambda: raise_all(signal.SIGINT) or 1 / 0)
        assert handlers.came == [signal.SIGINT]
        assert handlers.are_installed()


def test_a_handler_that_the_work_sets_stays():
    """P13: it is used at once, and the one before it is not put back over it."""
    with Handlers() as handlers:
        other = Handlers()

        def work():
            signal.signal(signal.SIGTERM, other)
            signal.raise_signal(signal.SIGTERM)
            return list(other.came)

        assert uninterrupted(work) == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is other
        assert handlers.came == []


def test_a_handler_that_a_handler_sets_stays():
    """P13: the usual first step of a handler that lets a second Ctrl-C kill the program."""
    with Handlers():
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_IGN))
        uninterrupted(lambda: raise_all(signal.SIGINT, signal.SIGTERM))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_signal_that_comes_while_a_handler_runs_is_handled_at_once():
    """P13: a handler may ask a question that a second Ctrl-C ends."""
    with Handlers() as handlers:
        seen = []

        def ask(number, frame):
            signal.raise_signal(signal.SIGTERM)
            seen.extend(handlers.came)

        signal.signal(signal.SIGINT, ask)
        uninterrupted(lambda: raise_all(signal.SIGINT))
        assert seen == [signal.SIGTERM]


@pytest.mark.parametrize("setting", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_systems_own_handling_stays(setting):
    """P13: a signal that is ignored is ignored; one that ends the process does so."""
    with Handlers():
        signal.signal(signal.SIGUSR1, setting)
        assert uninterrupted(lambda: signal.getsignal(signal.SIGUSR1)) is setting
        assert signal.getsignal(signal.SIGUSR1) is setting


def test_a_handler_that_is_not_written_in_python_stays():
    """P13: it is called while the work runs, and after it."""
    came = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(came.append)
    with Handlers():
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        ctypes.CDLL(None).signal(signal.SIGUSR1, handler)
        uninterrupted(lambda: raise_all(signal.SIGUSR1))
        raise_all(signal.SIGUSR1)
    assert came == [signal.SIGUSR1] * 2


def test_in_another_thread_the_handlers_stay():
    """P5: Python runs them in the main thread only, so they cannot interrupt the work."""
    with Handlers() as handlers:
        seen = []
        thread = threading.Thread(
            target=lambda: seen.append(uninterrupted(handlers.are_installed)), daemon=True
        )
        thread.start()
        thread.join(10)
    assert seen == [True]


def test_it_may_be_nested():
    """P5: a refresh in an exit handler that the exit's own wait has begun."""
    with Handlers() as handlers:

        def work():
            uninterrupted(lambda: raise_all(signal.SIGINT))
            return list(handlers.came)

        assert uninterrupted(work) == []
        assert handlers.came == [signal.SIGINT]
        assert handlers.are_installed()


def test_an_exception_at_any_line_loses_no_signal():
    """P5: a Ctrl-C between two lines of the code that puts handlers off, calls them and puts them
    back ends at most the work that had not begun; each signal has been handled once."""
    for moment in itertools.count():
        with Handlers(signal.SIGTERM, signal.SIGINT) as handlers:
            begun, ended = [], []

            def work(begun=begun):
                begun.append(True)
                raise_all(signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1)

            def trace(frame, event, argument, moments=itertools.count(), ended=ended):  # noqa: B008
                if frame.f_code.co_filename != signals.__file__:
                    return None
                if event == "line" and next(moments) == moment:  # noqa: B023
                    ended.append(True)
                    signal.raise_signal(signal.SIGINT)
                return trace

            before = sys.gettrace()
            with contextlib.suppress(Raised):
                sys.settrace(trace)
                try:
                    uninterrupted(work)
                finally:
                    sys.settrace(before)
            if not ended:
                break
            work_sent = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1] if begun else []
            assert sorted(handlers.came) == sorted([signal.SIGINT, *work_sent]), moment
            handlers.came.clear()
            handlers.raising = ()
            raise_all(*handlers.numbers)
            assert handlers.came == list(handlers.numbers)
    assert moment > 20
