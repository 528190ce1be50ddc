"""The thread that refreshes, from the lead it is given to the exit of the interpreter."""

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
from .sign_in_again import Asking
from .stored_session import Keeper, Unsaved

logger = logging.getLogger("requests_silent_refresh")

SAVE_RETRY = 0.5  # seconds: others may be waiting for the token
# Seconds that the exit leaves to callbacks that are told of a refresh.
TELLING_AT_EXIT = 2.0


class Worker:
    """Runs each batch in a daemon thread of its own and sees that nothing granted is lost (P5).

    The caller who leads waits like the rest, so a Ctrl-C, a timeout or an
    exception thrown into it ends its waiting and nothing else. The thread is a
    daemon because a non-daemon one is lost at the second Ctrl-C (Python 3.10 to
    3.13); instead an exit handler waits for the batch, through any number of
    Ctrl-C.

    Where no thread can be started any more, and after that exit handler has run
    (by an exit handler that was registered before), the batch runs in the caller
    and Ctrl-C is put off until it is over. A refresh ahead of its time is left
    out then.

    A granted token that could not be saved (P4) is saved by the next batch
    first; a thread of its own takes the lead for that now and then, and the exit
    handler does once more.
    """

    def __init__(
        self,
        queue: RefreshQueue,
        keeper: Keeper,
        refresher: Refresher,
        asking: Asking | None,
        announcer: Announcer,
    ) -> None:
        self._queue = queue
        self._keeper = keeper
        self._refresher = refresher
        self._asking = asking
        self._announcer = announcer
        _workers.add(self)

    def lead(self, batch: Batch) -> None:
        """Work on ``batch`` in a thread of its own; returns when that has begun."""
        if not self._start(batch):
            with _ctrl_c_put_off():
                self._work(batch)

    def lead_in_background(self, batch: Batch) -> None:
        """Do as :meth:`lead` where a thread can be started; else leave it."""
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
        except RuntimeError:  # the interpreter is leaving, or the system's limit is reached
            return False
        return True

    def _work(self, batch: Batch) -> None:
        if not self._queue.begin(batch):
            return
        outcome: Token | SilentRefreshError | None = None
        try:
            outcome = self._refresher.run(batch)
            if self._asking and isinstance(outcome, SessionExpired) and not self._queue.ending:
                outcome = self._asking.ask(batch, outcome)
        finally:
            if outcome is None:  # an exception was thrown into this very thread
                outcome = RefreshUnavailable("the refresh was interrupted: try again")
            self._queue.finish(batch, outcome)
            if self._keeper.unsaved is not None:
                self._keep_saving(self._keeper.unsaved)
        if isinstance(outcome, Token):
            self._announcer.refreshed(outcome)
        else:
            logger.warning("the refresh failed: %s", outcome)
            self._announcer.failed(outcome)

    # -- a token that could not be saved (P4) -----------------------------------

    def _keep_saving(self, unsaved: Unsaved) -> None:
        saver = threading.Thread(
            target=self._save_until_saved, args=(unsaved,), name="silent-refresh-save", daemon=True
        )
        try:
            saver.start()
        except RuntimeError:
            logger.error("no thread can be started to save the token: the next refresh saves it")

    def _save_until_saved(self, unsaved: Unsaved) -> None:
        """Save until that has worked; a later token that was not saved has a thread of its own."""
        pause = threading.Event()
        while self._keeper.unsaved is unsaved:
            pause.wait(SAVE_RETRY)
            self._save_once()

    def _save_once(self) -> None:
        """Try to save in the lead of a batch, where nobody else touches the unsaved token."""
        batch = self._queue.open_if_idle(whatever_the_verdict=True)
        if batch is None:
            return  # whoever refreshes now saves first
        try:
            if self._queue.begin(batch):
                self._keeper.save_unsaved()
        except Exception as error:  # noqa: BLE001 (it is saved or superseded, only not read again)
            logger.error("the store failed after a save: %s", type(error).__name__)
        finally:
            self._queue.finish(batch, None)

    # -- leaving -------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds that a refresh may take: the store's lock, the exchange, and the save."""
        return self._queue.wait_timeout + self._refresher.exchange_timeout

    def finish(self, timeout: float) -> None:
        """Wait until a batch in flight is finished and saved; not for a person to sign in."""
        self._queue.wait_until_idle(timeout)
        if self._keeper.unsaved is not None:
            self._save_once()
            if self._keeper.unsaved is not None:
                logger.error("the refreshed token is lost: it could not be saved before the exit")
        self._announcer.wait(TELLING_AT_EXIT)


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_left = False
_hooked_into_multiprocessing: int | None = None


def finish_all() -> None:
    """Finish every refresh of this process, whatever is thrown at it meanwhile (P5)."""
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
    """A child of multiprocessing ends by ``os._exit``, after its own finalizers only."""
    global _hooked_into_multiprocessing  # noqa: PLW0603 (once per process: a forked child hooks anew)
    if "multiprocessing.util" in sys.modules and _hooked_into_multiprocessing != os.getpid():
        _hooked_into_multiprocessing = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, finish_all, exitpriority=100)


@contextlib.contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Let Ctrl-C wait while a refresh runs in the main thread: nobody else would finish it."""
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
