"""A granted token that could not be saved: used from memory until it is saved (P4)."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from ..errors import StoreUnavailable, WrongIdentity
from ..stores.contract import Hold, State, StateMoved, TokenStore
from ..system.foreign import account_of
from ..system.forking import reset_in_child
from ..system.signals import uninterrupted
from ..system.threads import start_daemon
from .generations import replace
from .refresh_queue import RefreshQueue

logger = logging.getLogger("requests_silent_refresh")

# Seconds between two attempts of the background thread: other processes may be waiting.
SAVE_RETRY = 0.5
# Seconds between two attempts of a refresh that cannot go on before the token is saved.
SAVE_PAUSE = 0.1
# Seconds between two reports of a token that still cannot be saved.
COMPLAIN_EVERY = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Unsaved:
    """A granted token, what the store holds instead, and the store's lock that is kept for it."""

    state: State
    after: State | None
    """The state that is stored: one exchange behind, or more."""
    hold: Hold


class UnsavedToken:
    """Everything that happens to a token between a failed save and the one that succeeds.

    The old refresh token is spent, so the new one is used from memory, and the exclusive
    lock is kept so that no other process spends the old one again. Saving is tried again

    - every 0.5 s, by a thread of its own (:meth:`keep_saving`);
    - before the next refresh (:meth:`save_first`);
    - once more when the process ends (:meth:`save_now`).

    :meth:`keep`, :meth:`save`, :meth:`save_first` and :meth:`drop` are only called by the
    thread that leads a batch. The queue lets one thread lead at a time, so ``kept`` needs
    no lock. ``adopt_stored`` publishes what the store holds; it is called if another
    state was stored in the meantime.
    """

    def __init__(
        self, store: TokenStore, queue: RefreshQueue, adopt_stored: Callable[[], object]
    ) -> None:
        self._store = store
        self._queue = queue
        self._adopt_stored = adopt_stored
        self._complain_at = 0.0
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the token and its lock to the parent."""
        self.kept: Unsaved | None = None

    def stored_instead_of(self, state: State | None) -> State | None:
        """Return what the store holds while ``state`` is current."""
        return state if self.kept is None else self.kept.after

    def keep(self, unsaved: Unsaved, trouble: BaseException) -> None:
        """Keep a token that the store did not take, because of ``trouble``."""
        self.kept = unsaved
        self._complain_at = time.monotonic() + COMPLAIN_EVERY
        logger.error(
            "the refreshed token could not be saved (%s): it is used from memory, other "
            "processes wait, and saving is tried again",
            account_of(trouble, unsaved.state.token),
        )

    def drop(self) -> None:
        """Forget the token and release its lock."""
        unsaved, self.kept = self.kept, None
        if unsaved is not None:
            release(unsaved.hold)

    def save(self) -> Unsaved | None:
        """Try once more to save the token; return it if it still is unsaved."""
        unsaved = self.kept
        if unsaved is None:
            return None
        try:
            unsaved.hold.extend()
            replace(self._store, unsaved.state, unsaved.after, unsaved.after)
        except (StateMoved, WrongIdentity):
            self.drop()
            self._adopt_stored()
        except Exception as trouble:  # noqa: BLE001 (a user's store may raise anything)
            if time.monotonic() >= self._complain_at:
                self._complain_at = time.monotonic() + COMPLAIN_EVERY
                logger.error(
                    "the refreshed token still cannot be saved: %s",
                    account_of(trouble, unsaved.state.token),
                )
            return unsaved
        else:
            logger.warning("the refreshed token has been saved now")
            self.drop()
        return None

    def save_first(self, deadline: float, *, rotates: bool) -> Unsaved | None:
        """Save the token before the next refresh; return it if it may be refreshed unsaved.

        It may be while its lock is held for certain, or if nothing is spent by a refresh.
        Otherwise the save may have succeeded unnoticed, and another process may have
        refreshed what was saved. Blocks until ``deadline`` (monotonic) at most, then
        raises ``StoreUnavailable``.
        """
        while True:
            unsaved = self.save()
            if unsaved is None or not rotates or unsaved.hold.still_held():
                return unsaved
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    f"{self._store!r} cannot be reached, so it is not known whether the "
                    "last token was saved there: it is used until it expires, and refreshed once "
                    "that is known"
                )
            time.sleep(SAVE_PAUSE)

    def keep_saving(self) -> None:
        """Save the token in a thread of its own until that succeeds. Does not block."""
        unsaved = self.kept
        if unsaved is None:
            return
        if not start_daemon("silent-refresh-save", lambda: self._save_until_saved(unsaved)):
            logger.error("no thread can be started to save the token: the next refresh saves it")

    def save_now(self) -> bool:
        """Try once more, and report a token that is lost; return whether none is."""
        if self.kept is not None:
            uninterrupted(self._save_once)
            if self.kept is not None:
                logger.error(
                    "the refreshed token is lost if the process ends now: it could not be saved"
                )
        return self.kept is None

    def _save_until_saved(self, unsaved: Unsaved) -> None:
        # A later token that was not saved either has a thread of its own.
        pause = threading.Event()
        while self.kept is unsaved:
            pause.wait(SAVE_RETRY)
            self._save_once()

    def _save_once(self) -> None:
        """Try to save as the leader of a batch, so that nobody else touches the token."""
        batch = self._queue.open_if_unled()
        if batch is None:
            return  # the refresh in flight saves first
        try:
            if self._queue.begin(batch):
                self.save()
        except Exception as error:  # noqa: BLE001 (it is saved or superseded, only not read again)
            logger.error("the store failed after a save: %s", account_of(error))
        finally:
            self._queue.finish(batch, None)


def release(hold: Hold) -> None:
    """Release the store's lock. A failure is logged and otherwise ignored.

    What was saved stays saved; and a store whose lock cannot be released (as Redis clients
    raise for a lock that ran out) tells that to the processes that wait for it.
    """
    try:
        hold.release()
    except Exception as trouble:  # noqa: BLE001 (a user's store may raise anything)
        logger.warning("the store's lock could not be released: %s", account_of(trouble))
