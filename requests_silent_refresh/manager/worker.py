"""The thread that refreshes, and what the exit of the interpreter waits for."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator

from ..errors import RefreshUnavailable, SessionExpired, SilentRefreshError
from ..token import Token
from .batch import Batch
from .events import Announcer
from .refresh_queue import RefreshQueue
from .refresher import Refresher
from .sign_in_again import SignInAgain
from .stored_session import StoredSession

logger = logging.getLogger("requests_silent_refresh")

# Seconds that the exit leaves to callbacks that are told of a refresh.
TELLING_AT_EXIT = 2.0


class Worker:
    """Runs each batch in a daemon thread of its own, and sees that nothing granted is lost (P5).

    The thread that leads waits like the others, so a Ctrl-C, a timeout or an exception
    thrown into it ends its waiting and nothing else. The worker's thread is a daemon because
    a non-daemon one is lost at the second Ctrl-C (Python 3.10 to 3.13); an exit handler
    waits for the batch instead, through any number of Ctrl-C.

    If no thread can be started, or that exit handler has run already (an exit handler that
    was registered earlier refreshes), the batch runs in the caller, and Ctrl-C is put off
    until it is over. A refresh ahead of its time is left out then.

    After a batch that could not save its token, a thread goes on saving (P4).
    """

    def __init__(
        self,
        queue: RefreshQueue,
        stored: StoredSession,
        refresher: Refresher,
        sign_in_again: SignInAgain | None,
        announcer: Announcer,
    ) -> None:
        self._queue = queue
        self._stored = stored
        self._refresher = refresher
        self._sign_in_again = sign_in_again
        self._announcer = announcer
        _workers.add(self)

    def lead(self, batch: Batch) -> None:
        """Work on ``batch`` in a thread of its own; return when it has been started."""
        if not self._start(batch):
            with _ctrl_c_put_off():
                self._work(batch)

    def lead_in_background(self, batch: Batch) -> None:
        """Do as :meth:`lead` if a thread can be started; otherwise end the batch."""
        if not self._start(batch):
            self._queue.finish(batch, None)

    def _start(self, batch: Batch) -> bool:
        _finish_before_a_multiprocessing_child_ends()
        if _left:
            return False
        try:
            threading.Thread(
                target=self._work, args=(batch,), name="silent-refresh", daemon=True
            ).start()
        except RuntimeError:  # the interpreter exits, or the system's limit is reached
            return False
        return True

    def _work(self, batch: Batch) -> None:
        if not self._queue.begin(batch):
            return
        outcome: Token | SilentRefreshError | None = None
        try:
            outcome = self._refresher.run(batch)
            if self._sign_in_again and isinstance(outcome, SessionExpired):
                outcome = self._sign_in_again.ask(batch, outcome)
        finally:
            if outcome is None:  # an exception was thrown into this very thread
                outcome = RefreshUnavailable("the refresh was interrupted: try again")
            self._queue.finish(batch, outcome)
            self._stored.unsaved.keep_saving()
        if isinstance(outcome, Token):
            self._announcer.refreshed(outcome)
        else:
            logger.warning("the refresh failed: %s", outcome)
            self._announcer.failed(outcome)

    # -- leaving -------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds that a refresh may take: the store's lock, the exchange, and the save."""
        return self._queue.wait_timeout + self._refresher.exchange_timeout

    def finish(self, timeout: float) -> None:
        """Wait until the batch in flight has ended and is saved; not for a person to sign in."""
        self._queue.wait_until_idle(timeout)
        self._stored.unsaved.save_at_exit()
        self._announcer.wait(TELLING_AT_EXIT)


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_left = False
_hooked_into_multiprocessing: int | None = None


def finish_all() -> None:
    """Finish every refresh of this process, whatever is raised here meanwhile (P5)."""
    global _left  # noqa: PLW0603 (once per process: nobody waits for a thread started after this)
    for worker in list(_workers):
        deadline = time.monotonic() + worker.patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                worker.finish(left)
            except BaseException:  # noqa: BLE001, S112 (Ctrl-C, or a signal handler's SystemExit)
                continue
            break
    _left = True


atexit.register(finish_all)


def _finish_before_a_multiprocessing_child_ends() -> None:
    """A child of multiprocessing ends by ``os._exit``, after nothing but its own finalizers."""
    global _hooked_into_multiprocessing  # noqa: PLW0603 (once per process: a forked child hooks anew)
    if "multiprocessing.util" in sys.modules and _hooked_into_multiprocessing != os.getpid():
        _hooked_into_multiprocessing = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, finish_all, exitpriority=100)


@contextlib.contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Put Ctrl-C off while a refresh runs in the main thread: nothing else would finish it."""
    came: list[tuple[object, ...]] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])  # type: ignore[arg-type]  # as it would have been called
