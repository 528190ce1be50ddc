"""Calling somebody else's code without being held up by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..redaction import redact

T = TypeVar("T")


class LeftBehind(Exception):  # noqa: N818 (says what happened to the call, not what went wrong)
    """The call did not return in time; it goes on alone."""


class Escaped(Exception):  # noqa: N818 (as above)
    """The call raised what is no ``Exception``: ``SystemExit``, a cancellation.

    That was meant for the thread of the call, not for the one that waits for it.
    """


class Call(Generic[T]):
    """One call of a callable in a daemon thread of its own, which can be left behind.

    A callable that hangs (a resolver, a debugger, an endless loop) cannot be
    interrupted in Python, only left. What it returns in the end must not be
    lost all the same: it may be a freshly rotated refresh token. So the call is
    in one of three states, changed under its lock: RUNNING, DONE (the caller
    takes the result) or LEFT (the caller went, for whatever reason, a thrown
    ``KeyboardInterrupt`` included; ``late(result)`` is called in the call's own
    thread when it returns). Exactly one of the two gets the result, whichever
    way the return and the leaving race.

    Where no thread can be started any more (the interpreter is exiting, the
    system's limit) the call runs in the caller and cannot be left.
    """

    def __init__(self, function: Callable[[], T], late: Callable[[T], None], name: str) -> None:
        self._function = function
        self._late = late
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._left = False
        self._result: T | None = None
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            self._run()
            if self._error is not None and not isinstance(self._error, Exception):
                raise self._error from None  # here it was meant for this thread

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 (handed to the caller as it is)
            self._error = error
        with self._lock:
            left = self._left
            self._ended.set()
        if left and self._error is None:
            self._late(self._result)  # type: ignore[arg-type]  # T may itself be Optional

    def wait(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds at most; say whether the call has ended. Does not leave it."""
        return self._ended.wait(timeout)

    def result(self, timeout: float) -> T:
        """Return what the call returned or raise what it raised.

        Raises :class:`LeftBehind` after ``timeout`` seconds, and
        :class:`Escaped`. However this ends without a result, ``late`` gets it.
        """
        try:
            self._ended.wait(timeout)
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
        """Leave the call behind; ``False`` where it has ended and the result is the caller's."""
        with self._lock:
            if not self._ended.is_set():
                self._left = True
            return self._left


def account_of(error: BaseException) -> str:
    """Say what a callable of the user's raised, and where; the frames themselves are cut (P12)."""
    if isinstance(error, Escaped):
        return str(error)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
    try:
        said = redact(str(error))
    except Exception:  # noqa: BLE001 (whatever the method of another's class does)
        said = ""
    return f"{type(error).__name__}{where}" + (f": {said}" if said else "")
