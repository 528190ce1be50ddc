"""What the application is told: events, counters, and the token each refresh ended with."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import SessionExpired, SilentRefreshError
from ..system.foreign import account_of
from ..system.forking import reset_in_child
from ..token import Token

logger = logging.getLogger("requests_silent_refresh")


@dataclasses.dataclass(frozen=True)
class RefreshEvent:
    """Something that happened: ``kind`` is ``refreshed``, ``failed``, ``expired`` or ``replayed``.

    ``error`` is what the waiters of a failed or expired refresh raise, else ``None``. It
    holds no secret.
    """

    kind: str
    error: SilentRefreshError | None = None


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counters of one manager since it was made: an immutable snapshot."""

    exchanges: int
    """Calls of ``refresh``."""
    adopted: int
    """Refreshes that ended with a token that was refreshed elsewhere."""
    failures: int
    """Refreshes that ended without a token."""
    waits: int
    """Times a request waited for a refresh."""
    wait_seconds: float
    """Seconds that requests waited, in all."""
    replays: int
    """Requests sent again with a new token."""


class Announcer:
    """Calls ``on_refreshed`` and ``on_event``, one after another, without any lock.

    A thread that has something to tell appends it, and the first of them makes the calls
    until nothing is left. So the calls come in the order of the refreshes, which matters to
    a callback that writes the token down; and a callback that hangs delays later calls and
    nothing else: no refresh waits for one. The Condition guards the list and the flag.
    """

    def __init__(
        self,
        on_refreshed: Callable[[Token], object] | None,
        on_event: Callable[[RefreshEvent], object] | None,
    ) -> None:
        self._on_refreshed = on_refreshed
        self._on_event = on_event
        self.replays = 0
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the parent tells what is left."""
        # `with` on the lock itself, as in the refresh queue: `replayed` runs in a request's thread.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._untold: deque[tuple[Callable[[Any], object], object]] = deque()
        self._caller: int | None = None
        self._about_to_tell: set[int] = set()

    def __enter__(self) -> None:
        """Announce that this thread is about to tell something, which :meth:`wait` waits for."""
        with self._lock:
            self._about_to_tell.add(threading.get_ident())

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._about_to_tell.discard(threading.get_ident())
            self._condition.notify_all()

    def refreshed(self, token: Token) -> None:
        """Tell that a refresh ended with ``token``."""
        self._tell((self._on_refreshed, token), (self._on_event, RefreshEvent("refreshed")))

    def failed(self, error: SilentRefreshError) -> None:
        """Tell that a refresh ended with ``error``."""
        kind = "expired" if isinstance(error, SessionExpired) else "failed"
        self._tell((self._on_event, RefreshEvent(kind, error.again())))

    def replayed(self) -> None:
        """Tell that a request is sent again; in the request's own thread."""
        with self._lock:
            self.replays += 1
        if self._on_event is not None:
            _call_safely(self._on_event, RefreshEvent("replayed"))

    def wait(self, timeout: float) -> bool:
        """Wait until everything is told, for at most ``timeout`` seconds; return whether it is.

        In a callback, only what other threads tell is waited for.
        """
        me = threading.get_ident()
        with self._lock:
            return self._condition.wait_for(
                lambda: self._caller in (None, me) and self._about_to_tell <= {me}, timeout
            )

    def _tell(self, *calls: tuple[Callable[[Any], object] | None, object]) -> None:
        with self._lock:
            self._untold.extend((call, argument) for call, argument in calls if call is not None)
            if self._caller is not None or not self._untold:
                return
            self._caller = threading.get_ident()
        try:
            while (next_call := self._next()) is not None:
                _call_safely(*next_call)
        except BaseException:  # thrown into this thread: the next one to tell goes on
            with self._lock:
                self._stop_calling()
            raise

    def _next(self) -> tuple[Callable[[Any], object], object] | None:
        with self._lock:
            if self._untold:
                return self._untold.popleft()
            self._stop_calling()  # under the same lock, or something just appended would be left
            return None

    def _stop_calling(self) -> None:
        self._caller = None
        self._condition.notify_all()


def _call_safely(callback: Callable[[Any], object], argument: object) -> None:
    try:
        callback(argument)
    except Exception as error:  # noqa: BLE001 (the application's code may raise anything)
        logger.error("a callback of the token manager raised %s", account_of(error))
