"""The thread that refreshes, from the lead it is given to the end of its batch."""

from __future__ import annotations

import logging
import threading
import time

from ..errors import RefreshUnavailable, SessionExpired, SilentRefreshError
from ..system.signals import uninterrupted
from ..system.threads import start_daemon
from ..token import Token
from . import leaving
from .batch import Batch
from .events import Announcer
from .queue_state import QueueState
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

    If no thread can be started, or the interpreter is exiting, the batch runs in the caller,
    and signal handlers are put off until it is over. A refresh ahead of its time is left out
    then. While the interpreter exits, that goes for the main thread only: it ends every
    other thread at some moment, which may be between the server's rotation and the save.

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
        leaving.wait_for(self)

    def lead(self, batch: Batch) -> None:
        """Work on ``batch`` in a thread of its own; return when it has been started.

        Raises ``RefreshUnavailable`` if the interpreter exits and may end the calling thread.
        """
        if self._start(batch):
            return
        if leaving.has_begun() and threading.current_thread() is not threading.main_thread():
            # Nothing is sent yet. The interpreter ends this thread at any moment from now on. The
            # main thread may refresh still, in an exit handler: it enters again and leads.
            self._queue.finish(batch, None)
            raise RefreshUnavailable("the interpreter exits: nothing was sent")
        uninterrupted(lambda: self._work(batch))

    def lead_in_background(self, batch: Batch) -> None:
        """Do as :meth:`lead` if a thread can be started; otherwise end the batch."""
        if not self._start(batch):
            self._queue.finish(batch, None)

    def _start(self, batch: Batch) -> bool:
        if leaving.has_begun():
            return False
        leaving.hook_into_multiprocessing()
        return start_daemon("silent-refresh", lambda: self._work(batch))

    def _work(self, batch: Batch) -> None:
        if not self._queue.begin(batch):
            return
        outcome: Token | SilentRefreshError | None = None
        try:
            with self._queue.insiders:
                outcome = self._refresher.run(batch)
            if self._sign_in_again and isinstance(outcome, SessionExpired):
                outcome = self._sign_in_again.ask(batch, outcome)
        finally:
            with self._announcer:
                # None if an exception was thrown into this very thread.
                interrupted = RefreshUnavailable("the refresh was interrupted: try again")
                self._queue.finish(batch, outcome or interrupted)
                self._stored.unsaved.keep_saving()
                if isinstance(outcome, Token):
                    self._announcer.refreshed(outcome)
                elif outcome is not None:
                    logger.warning("the refresh failed: %s", outcome)
                    self._announcer.failed(outcome)

    # -- leaving -----------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds that a refresh may take: the store's lock, the exchange, and the save."""
        return self._queue.wait_timeout + self._refresher.exchange_timeout

    @property
    def is_idle(self) -> bool:
        """Whether no refresh is under way, nobody is asked to sign in, and all is saved."""
        asking = self._queue.state is QueueState.ASKING
        return self._queue.wait_until_idle(0) and not asking and self._stored.unsaved.kept is None

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no refresh is under way; return whether that is so after ``timeout`` s.

        Does not wait for a person to sign in, nor in a callback that the refresh waits for.
        """
        return self._queue.wait_until_idle(0 if self._queue.insiders.am_one() else timeout)

    def finish(self, timeout: float) -> bool:
        """Wait likewise, and until all is saved and told; return whether that is so."""
        deadline = time.monotonic() + timeout
        self.wait_until_idle(timeout)
        saved = self._stored.unsaved.save_now()
        told = self._announcer.wait(max(TELLING_AT_EXIT, deadline - time.monotonic()))
        return saved and told and self.wait_until_idle(0)
