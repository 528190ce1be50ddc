"""What the store holds and what everybody uses, kept the same: saving, adopting, publishing."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from ..errors import StoreError
from ..stores.contract import Hold, State, StateMoved, TokenStore
from ..system.forking import reset_in_child
from ..token import Token
from .current import NOT_LOADED, Current, current_of
from .refresh_queue import RefreshQueue

logger = logging.getLogger("requests_silent_refresh")

# Seconds between two reports of a token that still cannot be saved.
COMPLAIN_EVERY = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Unsaved:
    """A granted token that the store would not take, and the lock kept for it (P4)."""

    state: State
    after: State | None
    """The state that is stored: one exchange behind, or more."""
    hold: Hold


class Keeper:
    """Keeps the published state and the stored one in step. Owns the unsaved token.

    Durable before visible (P4): :meth:`keep` saves first and publishes then. If
    the save fails the token is published all the same, since the old one is
    spent, and this object holds on to the exclusive lock, so that nobody else
    spends the old one again, until :meth:`save_unsaved` succeeds.

    ``keep``, ``wipe``, ``save_unsaved`` and ``drop_unsaved`` are called by the
    worker of the batch in flight only; the queue gives the lead to one at a
    time, so ``unsaved`` needs no lock. The rest may be called by anybody.

    A sign-in or sign-out during the exchange wins (``keep``): it is noticed in
    the store by compare-and-set, and where the store cannot be written at that
    moment, by what is published here.

    A lock that cannot be given up (a user's store may raise there, as Redis clients
    do for a lock that ran out) is logged and changes nothing: what was saved is
    saved, a refusal is one, and whoever waits for that lock hears it from the store.
    """

    def __init__(
        self,
        store: TokenStore,
        queue: RefreshQueue,
        refresh_ahead: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._queue = queue
        self._refresh_ahead = refresh_ahead
        self._clock = clock
        self.unsaved: Unsaved | None = None
        self._complain_at = 0.0
        self.is_copy = False
        """Whether the session was copied by ``fork``, and is the parent's to refresh."""
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the unsaved token and its lock to the parent."""
        self.unsaved = None
        self.is_copy = not self._store.shared

    def sign_in(self, token: Token) -> None:
        """Save ``token`` as a session of its own and publish it. Raises ``StoreError``."""
        self._store.save(token, after=None)
        self.is_copy = False
        self.adopt_stored()

    def adopt_stored(self) -> Current:
        """Publish what the store holds, if it is newer, and return what is current then.

        Loads again until nobody published in between: in whatever order two
        sign-ins are saved and published, the stored one stays. Raises what
        ``store.load`` raises.
        """
        while True:
            seen = self._queue.current
            adopted = self._adopt(self._store.load(), seen)
            if adopted is not None:
                return adopted

    def reconcile(self) -> Current:
        """Adopt what the store holds, or save ours back where the store fell behind it.

        A store falls behind when its engine failed over and lost our last save:
        the stored refresh token is then a spent one, and adopting it would lose
        the session.
        """
        while True:
            seen = self._queue.current
            known, stored = seen.state, self._store.load()
            if stored is None or known is None or not is_newer(known, stored, same_lineage=True):
                adopted = self._adopt(stored, seen)
                if adopted is not None:
                    return adopted
                continue
            try:
                self._store.replace(known, after=stored)
            except StateMoved:
                continue
            logger.warning("the store had lost generation %d: saved it back", known.generation)

    def keep(self, granted: Token, exchanged: State | None, hold: Hold) -> bool:
        """Save the token that ``exchanged`` was exchanged for and publish it.

        Returns ``False`` where it is of no use: a sign-in or a sign-out won, and
        is published. Raises nothing for a store that fails, whatever that raises:
        the old token is spent, and nobody else has the new one.
        """
        seen = self._queue.current
        new = State.first(granted) if exchanged is None else exchanged.followed_by(granted)
        stored = self._stored(exchanged)
        moved = seen.state is not exchanged
        try:
            if not moved:
                self._replace(new, stored, exchanged)
        except StateMoved:
            moved = True
        except BaseException as trouble:
            self.unsaved = Unsaved(new, stored, hold)
            self._complain_at = time.monotonic() + COMPLAIN_EVERY
            logger.error(
                "the refreshed token could not be saved (%s): it is used from memory, other "
                "processes wait, and saving is tried again",
                _said(trouble),
            )
            published = self._queue.publish(self._current(new), seen)
            if not isinstance(trouble, Exception):  # thrown into this thread
                raise
            return published
        self.drop_unsaved()
        if moved:
            self.adopt_stored()
            return False
        return self._queue.publish(self._current(new), seen)

    def keep_late(self, granted: Token, exchanged: State) -> bool:
        """Do as :meth:`keep` for an exchange that was left behind; called by any thread.

        Nobody leads for it, so nobody can hold the lock until a failed save
        succeeds: the token is published, and the next refresh saves it.
        """
        seen = self._queue.current
        new = exchanged.followed_by(granted)
        try:
            self._replace(new, exchanged, exchanged)
        except StateMoved:
            self.adopt_stored()
            return False
        except Exception as trouble:  # noqa: BLE001 (as above)
            logger.error("a late answer could not be saved (%s): it is used", _said(trouble))
            return seen.state is exchanged and self._queue.publish(self._current(new), seen)
        self.adopt_stored()
        return True

    def _replace(self, new: State, stored: State | None, exchanged: State | None) -> None:
        try:
            self._store.replace(new, stored)
        except StateMoved as moved:
            if moved.state is None or not is_newer(exchanged, moved.state, same_lineage=True):
                raise
            # The engine failed over during the exchange; what it went back to is spent.
            self._store.replace(new, moved.state)

    def wipe(self, refused: State) -> Current:
        """Replace the refused state by a tombstone, unless a newer one is there; publish either."""
        tombstone = refused.followed_by(None)
        try:
            self._store.replace(tombstone, self._stored(refused))
        except StateMoved:
            pass
        except Exception as trouble:  # noqa: BLE001 (a store of the user's may raise anything)
            logger.error("the refused token could not be wiped from the store: %s", _said(trouble))
        self.drop_unsaved()
        try:
            current = self.adopt_stored()
        except Exception:  # noqa: BLE001 (as above, and it has been reported)
            current = self._queue.current
        if current.state is refused:
            self.forget(refused)  # the store could not be changed: end it here all the same
        return self._queue.current

    def forget(self, state: State) -> None:
        """End ``state`` in this process, if it is current and the store cannot be changed."""
        current = self._queue.current
        if current.state is not None and current.state.is_same(state):
            self._queue.publish(self._current(state.followed_by(None)), current)

    def sign_out(self, revoke: Callable[[Token], None]) -> None:
        """Revoke the newest token there is, wipe the store, and publish that.

        Raises ``StoreError`` where the store cannot be read or changed; the
        session is over in this process then, too.
        """
        try:
            self._wipe_newest(revoke)
            self.adopt_stored()
        except StoreError:
            known = self._queue.current.state
            if known is not None:
                self.forget(known)
            raise

    def _wipe_newest(self, revoke: Callable[[Token], None]) -> None:
        while True:
            stored, known = self._store.load(), self._queue.current.state
            if stored is None:
                return
            state = stored
            # A manager that was not used before knows nothing, and that is not newer.
            if known is not None and is_newer(known, stored, same_lineage=True):
                state = known
            if state.token is None:
                return
            revoke(state.token)
            try:
                self._store.replace(state.followed_by(None), after=stored)
            except StateMoved:  # refreshed meanwhile: that one as well
                continue
            return

    def save_unsaved(self) -> Unsaved | None:
        """Try once more to save the unsaved token; return it if it still is that."""
        unsaved = self.unsaved
        if unsaved is None:
            return None
        try:
            unsaved.hold.extend()
            self._replace(unsaved.state, unsaved.after, unsaved.after)
        except StateMoved:
            self.drop_unsaved()
            self.adopt_stored()
        except Exception as trouble:  # noqa: BLE001 (a store of the user's may raise anything)
            if time.monotonic() >= self._complain_at:
                self._complain_at = time.monotonic() + COMPLAIN_EVERY
                logger.error("the refreshed token still cannot be saved: %s", _said(trouble))
            return unsaved
        else:
            logger.warning("the refreshed token is saved at last")
            self.drop_unsaved()
        return None

    def drop_unsaved(self) -> None:
        """Forget the unsaved token and give up its lock."""
        unsaved, self.unsaved = self.unsaved, None
        if unsaved is not None:
            _give_up(unsaved.hold)

    def release(self, hold: Hold) -> None:
        """Give up ``hold`` unless an unsaved token needs it."""
        if self.unsaved is None or self.unsaved.hold is not hold:
            _give_up(hold)

    def _stored(self, state: State | None) -> State | None:
        """Return what the store holds while ``state`` is current."""
        return state if self.unsaved is None else self.unsaved.after

    def _adopt(self, stored: State | None, seen: Current) -> Current | None:
        """Publish ``stored`` if it is newer than ``seen``; ``None`` where somebody was faster."""
        if seen is not NOT_LOADED and not is_newer(stored, seen.state):
            return seen
        new = self._current(stored)
        return new if self._queue.publish(new, seen) else None

    def _current(self, state: State | None) -> Current:
        return current_of(state, self._refresh_ahead, self._clock())


def is_newer(state: State | None, known: State | None, *, same_lineage: bool = False) -> bool:
    """Say whether ``state`` goes before ``known``: a later generation, or another sign-in."""
    if state is None or known is None:
        return state is not known
    if state.lineage != known.lineage:
        return not same_lineage
    return state.generation > known.generation


def _give_up(hold: Hold) -> None:
    try:
        hold.release()
    except Exception as trouble:  # noqa: BLE001 (a store of the user's may raise anything)
        logger.warning("the store's lock could not be given up: %s", _said(trouble))


def _said(trouble: BaseException) -> str:
    """Only our own stores are known to say no secret."""
    return str(trouble) if isinstance(trouble, StoreError) else type(trouble).__name__
