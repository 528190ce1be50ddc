"""The thread that refreshes, from the lead it is given to the exit of the interpreter."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .asking import Asking
from .errors import SessionExpired, SilentRefreshError
from .forking import reset_in_child
from .keeper import Keeper
from .refresh_queue import Batch, RefreshQueue
from .refresher import Refresher
from .token import Token

logger = logging.getLogger("requests_silent_refresh")

FIRST_SAVE_RETRY = 0.5
SAVE_RETRY_CAP = 30.0


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened: ``kind`` is ``refreshed``, ``failed``, ``expired`` or ``replayed``.

    ``error`` is what the waiters of a failed or expired refresh raise; ``None``
    otherwise. Holds no secret.
    """

    kind: str
    error: SilentRefreshError | None = None


class Worker:
    """Runs each batch in a daemon thread of its own and sees that nothing granted is lost (P5).

    The caller who leads waits like the rest, so a Ctrl-C, a timeout or an
    exception thrown into it ends its waiting and nothing else. The thread is a
    daemon because a non-daemon one is lost at the second Ctrl-C (Python 3.10 to
    3.13); instead an exit handler waits for the batch, through any number of
    Ctrl-C. Where no thread can be started any more the batch runs in the caller.

    A granted token that could not be saved (P4) is saved by the next batch
    first; :meth:`_save_until_saved` takes the lead for that now and then, and
    the exit handler does once more.
    """

    def __init__(
        self,
        queue: RefreshQueue,
        keeper: Keeper,
        refresher: Refresher,
        asking: Asking | None,
        on_refreshed: Callable[[Token], object] | None,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._queue = queue
        self._keeper = keeper
        self._refresher = refresher
        self._asking = asking
        self._on_refreshed = on_refreshed
        self._on_event = on_event
        self._saver: threading.Thread | None = None
        self.failures = 0
        _workers.add(self)
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Forget the thread that saves: it exists in the parent only."""
        self._saver = None

    def lead(self, batch: Batch) -> None:
        """Work on ``batch`` in a thread of its own; returns when that has begun."""
        _finish_before_a_multiprocessing_child_ends()
        batch.worker = threading.Thread(
            target=self._work, args=(batch,), name="silent-refresh", daemon=True
        )
        try:
            batch.worker.start()
        except RuntimeError:  # no thread can be started any more: at exit, or at a limit
            batch.worker = threading.current_thread()
            self._work(batch)

    def _work(self, batch: Batch) -> None:
        outcome: Token | SilentRefreshError | None = None
        try:
            outcome = self._refresher.run(batch)
            if isinstance(outcome, SessionExpired) and self._asking and not self._queue.asked:
                outcome = self._asking.ask(batch, outcome)
        finally:
            # Without an outcome (an exception thrown into this very thread) the
            # waiters go round again and one of them leads.
            self._queue.finish(batch, outcome)
        if self._keeper.unsaved is not None:
            self._keep_saving()
        self._tell_outcome(outcome)

    def _tell_outcome(self, outcome: Token | SilentRefreshError) -> None:
        if isinstance(outcome, Token):
            if self._on_refreshed is not None:
                _call_safely(self._on_refreshed, outcome)
            self.tell(Event("refreshed"))
            return
        self.failures += 1
        expired = isinstance(outcome, SessionExpired)
        logger.warning("the refresh failed: %s", outcome)
        self.tell(Event("expired" if expired else "failed", outcome.again()))

    def tell(self, event: Event) -> None:
        """Call ``on_event``; what it raises is logged."""
        if self._on_event is not None:
            _call_safely(self._on_event, event)

    # -- a token that could not be saved (P4) -----------------------------------

    def _keep_saving(self) -> None:
        if self._saver is not None and self._saver.is_alive():
            return
        self._saver = threading.Thread(
            target=self._save_until_saved, name="silent-refresh-save", daemon=True
        )
        try:
            self._saver.start()
        except RuntimeError:
            logger.error("no thread can be started to save the token: the next refresh saves it")

    def _save_until_saved(self) -> None:
        pause, delay = threading.Event(), FIRST_SAVE_RETRY
        while self._keeper.unsaved is not None:
            pause.wait(delay)
            delay = min(2 * delay, SAVE_RETRY_CAP)
            self._save_once()

    def _save_once(self) -> None:
        """Try to save in the lead of a batch, where nobody else touches the unsaved token."""
        batch = self._queue.open_if_idle()
        if batch is None:
            return  # whoever refreshes now saves first
        batch.worker = threading.current_thread()
        try:
            self._keeper.save_unsaved()
        finally:
            self._queue.finish(batch, None)

    # -- leaving -------------------------------------------------------------------

    def finish(self) -> None:
        """Wait until a batch in flight is finished and saved; not for a person to sign in.

        Blocks for as long as a refresh may take: the store's lock, the
        exchange's own timeout, the save.
        """
        limit = self._queue.wait_timeout + self._refresher.exchange_timeout
        self._queue.wait_until_idle(limit)
        if self._keeper.unsaved is not None:
            self._save_once()
            if self._keeper.unsaved is not None:
                logger.error("the refreshed token is lost: it could not be saved before the exit")


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_hooked_into_multiprocessing: int | None = None


def finish_all() -> None:
    """Finish every refresh of this process, through any number of Ctrl-C (P5)."""
    for worker in list(_workers):
        while True:
            try:
                worker.finish()
            except KeyboardInterrupt:
                continue
            break


atexit.register(finish_all)


def _finish_before_a_multiprocessing_child_ends() -> None:
    """A child of multiprocessing ends by ``os._exit``, after its own finalizers only."""
    global _hooked_into_multiprocessing  # noqa: PLW0603 (once per process: a forked child hooks anew)
    if "multiprocessing.util" in sys.modules and _hooked_into_multiprocessing != os.getpid():
        _hooked_into_multiprocessing = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, finish_all, exitpriority=100)


def _call_safely(callback: Callable[[Any], object], argument: object) -> None:
    try:
        callback(argument)
    except Exception:
        logger.exception("a callback of the token manager raised")
