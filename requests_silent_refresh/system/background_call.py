"""Calling code that may hang, with a bound on how long the caller waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .awake_time import AwakeTime
from .foreign import account_of
from .threads import start_daemon

T = TypeVar("T")


class LeftBehind(Exception):  # noqa: N818 (named for what happened to the call)
    """The call did not return in time; it continues in the background."""


class Escaped(Exception):  # noqa: N818 (as above)
    """The call raised a ``BaseException`` that is not an ``Exception``, such as ``SystemExit``.

    It was meant for the thread of the call, so it is not raised in the thread that waits.
    """


class Call(Generic[T]):
    """One call of a callable in its own daemon thread, which the caller can leave behind.

    Python cannot interrupt a callable that hangs (a resolver, a debugger, an endless loop); the
    caller can only stop waiting. The result must still not be lost, because it may be a newly
    rotated refresh token. The call is therefore in one of three states, which change with its
    lock held: RUNNING, DONE (the caller takes the result) or LEFT (the caller stopped waiting
    for any reason, including ``KeyboardInterrupt``; ``late(result)`` is called in the call's
    own thread when it returns). Exactly one of the caller and ``late`` gets the result,
    however the return and the leaving race.

    The first :meth:`wait` or :meth:`result` starts the thread, so a call may be made with a lock
    held, and joined by several threads. If no thread can be started (the interpreter is exiting,
    or the system's limit is reached), the call runs in the thread that waits first, and cannot
    be left behind.
    """

    def __init__(self, function: Callable[[], T], late: Callable[[T], None], name: str) -> None:
        self._function = function
        self._late = late
        self._name = name
        self._lock = threading.Lock()
        self._starting = threading.Lock()  # taken by the thread that starts the call
        self._taken = threading.Lock()  # taken by the thread that runs it
        self._ended = False
        # Held while the call runs. Not an Event, whose own lock an exception of a signal
        # handler may leave taken: `wait` runs in threads that have such handlers.
        self._running = threading.Lock()
        self._running.acquire()
        self._left = False
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """Whether the call has returned or raised."""
        return self._ended

    def start(self) -> bool:
        """Start the call unless that was done; False if no thread can be started."""
        if not self._starting.acquire(blocking=False):
            return True
        started = start_daemon(self._name, self._run)
        if not started:
            self._starting.release()
        return started

    def _run(self) -> bool:
        """Run the call, unless another thread does."""
        if not self._taken.acquire(blocking=False):
            return False
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 (handed to the caller unchanged)
            self._error = error
        with self._lock:
            left = self._left
            self._ended = True
        self._running.release()
        if left and self._error is None:
            self._late(self._result)  # type: ignore[arg-type]  # T may itself be Optional
        return True

    def _run_here(self) -> None:
        if self._run() and self._error is not None and not isinstance(self._error, Exception):
            raise self._error from None  # the call ran in this thread, so it was meant for it

    def wait(self, timeout: float) -> bool:
        """Block for at most ``timeout`` seconds; return whether the call has ended.

        Time in which the process is stopped does not count.
        """
        limit = AwakeTime(timeout)
        if not self.start():
            self._run_here()
        # In steps, because a waiter that was interrupted may not have released the lock.
        while not self._ended and (step := limit.next_step()) > 0:
            if self._running.acquire(timeout=step):
                self._running.release()
            elif not self._taken.locked() and not start_daemon(self._name, self._run):
                self._run_here()  # the thread that was to start it was interrupted
        return self._ended

    def result(self, timeout: float) -> T:
        """Return what the call returned, or raise what it raised.

        Raises :class:`LeftBehind` after ``timeout`` seconds, and :class:`Escaped`. If this
        method does not return the result, ``late`` gets it.
        """
        try:
            self.wait(timeout)
        except BaseException:  # thrown into this thread
            if not self.leave() and self._error is None:
                self._late(self._result)  # type: ignore[arg-type]  # as above
            raise
        if self.leave():
            raise LeftBehind
        if self._error is not None:
            if isinstance(self._error, Exception):
                raise self._error
            raise Escaped(account_of(self._error))
        return self._result  # type: ignore[return-value]  # T may itself be Optional

    def leave(self) -> bool:
        """Leave the call behind; ``False`` if it has ended and the caller must take the result."""
        with self._lock:
            if not self._ended:
                self._left = True
            return self._left
