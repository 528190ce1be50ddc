"""What the store holds and what all threads use, kept the same: saving, adopting, publishing."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import weakref
from collections.abc import Callable

from ..errors import StoreError, WrongIdentity
from ..stores.contract import Hold, State, StateMoved, TokenStore
from ..system.foreign import account_of
from ..system.forking import reset_in_child
from ..token import Token
from .current import NOT_LOADED, Current, current_of
from .generations import is_newer, replace
from .refresh_queue import RefreshQueue
from .unsaved_token import Unsaved, UnsavedToken, release

logger = logging.getLogger("requests_silent_refresh")


class StoredSession:
    """Keeps the published state and the stored one in step.

    Durable before visible (P4): :meth:`keep` saves a token first and publishes it then.
    If the save fails, the token is published all the same, because the old one is spent,
    and ``unsaved`` keeps it and the exclusive lock until it is saved.

    :meth:`keep`, :meth:`wipe` and :meth:`release` are called by the worker of the batch in
    flight only. Everything else may be called by any thread.

    A sign-in or sign-out during an exchange wins over its result. :meth:`keep` notices it
    in the store, by compare-and-set, and, if the store cannot be written at that moment,
    by what is published here.
    """

    def __init__(
        self,
        store: TokenStore,
        queue: RefreshQueue,
        refresh_ahead: float,
        clock: Callable[[], float],
        needs_refresh_token: bool,
        identity: str | None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._refresh_ahead = refresh_ahead
        self._clock = clock
        self._needs_refresh_token = needs_refresh_token
        self._identity = identity
        self._published: weakref.WeakSet[Token] = weakref.WeakSet()
        self.unsaved = UnsavedToken(store, queue, self.adopt_stored)
        self.look_at = -math.inf
        """Unix time from which on the next request looks at the store, even if its token is
        fresh: somebody may have signed out, or in, in another process (P17). Every read puts it
        off by the store's ``look_interval``, so a process without requests does not look."""
        self.is_copy = False
        """Whether the session was copied by ``fork``, and is the parent's to refresh."""
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """A store that processes do not share holds a copy of the parent's session from now on."""
        self.is_copy = not self._store.shared

    def sign_in(self, token: Token) -> None:
        """Save ``token`` as a session of its own and publish it. Raises ``StoreError``."""
        self._store.replace(State.first(token, self._identity), after=None)
        self.is_copy = False
        self.adopt_stored()
        if self.is_final(token):
            logger.warning(
                "there is no refresh token: the session ends with its access token. Ask the "
                "server for one, often by the scope offline_access"
            )

    def adopt_stored(self, *, unless_lost: bool = False) -> Current:
        """Publish what the store holds if it is newer, and return what is current then.

        With ``unless_lost`` a store that holds nothing at all changes nothing.

        Loads again until no other thread published in between: in whatever order two
        sign-ins are saved and published, the stored one stays. Raises what :meth:`_load`
        raises.
        """
        while True:
            seen = self._queue.current
            stored = self._load()
            if stored is None and unless_lost:
                return seen
            adopted = self._adopt(stored, seen)
            if adopted is not None:
                return adopted

    def reconcile(self) -> Current:
        """Adopt what the store holds, or save our state back if the store fell behind it.

        A store falls behind when its engine failed over and lost our last save. The stored
        refresh token is a spent one then, and adopting it would lose the session.
        """
        while True:
            seen = self._queue.current
            known, stored = seen.state, self._load()
            if stored and known and is_newer(known, stored, same_lineage=True):
                with contextlib.suppress(StateMoved):
                    self._store.replace(known, after=stored)
                    logger.warning(
                        "the store had lost generation %d: saved it back", known.generation
                    )
            elif (adopted := self._adopt(stored, seen)) is not None:
                return adopted

    def keep(self, granted: Token, exchanged: State | None, hold: Hold) -> bool:
        """Save the token that ``exchanged`` was exchanged for, and publish it.

        Returns ``False`` if a sign-in or a sign-out won; that one is published then. Raises
        ``WrongIdentity`` if a sign-in to another server or client won. Raises nothing if the
        store fails, whatever it raises: the old token is spent, and only this process has the
        new one.
        """
        seen = self._queue.current
        first = State.first(granted, self._identity)
        new = first if exchanged is None else exchanged.followed_by(granted)
        stored = self.unsaved.stored_instead_of(exchanged)
        moved = seen.state is not exchanged
        try:
            if not moved:
                replace(self._store, new, stored, exchanged)
        except (StateMoved, WrongIdentity):
            moved = True
        except BaseException as trouble:
            self.unsaved.keep(Unsaved(new, stored, hold), trouble)
            published = self._queue.publish(self._current(new), seen)
            if not isinstance(trouble, Exception):  # thrown into this thread
                raise
            return published
        self.unsaved.drop()
        if moved:
            self.adopt_stored()
            return False
        return self._queue.publish(self._current(new), seen)

    def keep_late(self, granted: Token, exchanged: State) -> bool:
        """Do as :meth:`keep` for an exchange that was left behind; called by any thread.

        This thread does not lead, so it cannot hold the lock until a failed save succeeds:
        the token is published, and the next refresh saves it.
        """
        seen = self._queue.current
        new = exchanged.followed_by(granted)
        try:
            replace(self._store, new, exchanged, exchanged)
        except StateMoved:
            self.adopt_stored()
            return False
        except Exception as trouble:  # noqa: BLE001 (a user's store may raise anything)
            logger.error(
                "a late answer could not be saved (%s): it is used", account_of(trouble, granted)
            )
            return seen.state is exchanged and self._queue.publish(self._current(new), seen)
        self.adopt_stored()
        return True

    def wipe(self, refused: State) -> Current:
        """Replace the refused state by a tombstone, unless a newer one is there; publish either."""
        tombstone = refused.followed_by(None)
        try:
            self._store.replace(tombstone, self.unsaved.stored_instead_of(refused))
        except StateMoved:
            pass
        except Exception as trouble:  # noqa: BLE001 (a user's store may raise anything)
            logger.error(
                "the refused token could not be wiped from the store: %s",
                account_of(trouble, refused.token),
            )
        self.unsaved.drop()
        try:
            current = self.adopt_stored()
        except Exception:  # noqa: BLE001 (as above, and it has been reported)
            current = self._queue.current
        if current.state is refused:
            self._forget(current)  # the store could not be changed
        return self._queue.current

    def release(self, hold: Hold) -> None:
        """Release ``hold`` unless an unsaved token needs it."""
        if self.unsaved.kept is None or self.unsaved.kept.hold is not hold:
            release(hold)

    def sign_out(self, revoke: Callable[[Token], None]) -> None:
        """Revoke the newest token there is, wipe the store, and publish that.

        Raises ``StoreError`` if the store cannot be read or changed; the session is over in
        this process then, too.
        """
        try:
            self._wipe_newest(revoke)
            self.adopt_stored()
        except StoreError:
            self._forget(self._queue.current)
            raise

    def _wipe_newest(self, revoke: Callable[[Token], None]) -> None:
        while True:
            stored, known = self._load(), self._queue.current.state
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
            except StateMoved:  # refreshed meanwhile: revoke and wipe that one as well
                continue
            return

    def _load(self) -> State | None:
        """Load the stored state; one without an identity gets ours, which the next save stores.

        Raises ``WrongIdentity`` if somebody has signed in to another server or with another
        client there. The session that was used here is over then, so it is published as
        ended. Also raises what ``store.load`` raises.
        """
        self.look_at = self._clock() + self._store.look_interval
        seen, state = self._queue.current, self._store.load()
        if state is None or self._identity is None:
            return state
        if state.identity is None:
            return dataclasses.replace(state, identity=self._identity)
        try:
            state.check_identity(self._identity)
        except WrongIdentity as error:
            ended = Current(dataclasses.replace(state, token=None), None)
            if self._queue.publish(ended, seen) and seen.token is not None:
                logger.error("%r: the session is over here: %s", self._store, error)
            raise
        return state

    def _forget(self, current: Current) -> None:
        """End the session in this process, unless another one was published meanwhile."""
        if current.state is not None:
            self._queue.publish(Current(current.state.followed_by(None), None), current)

    def _adopt(self, stored: State | None, seen: Current) -> Current | None:
        """Publish ``stored`` if newer than ``seen``; ``None`` if another thread was faster."""
        if seen is not NOT_LOADED and not is_newer(stored, seen.state):
            return seen
        new = self._current(stored)
        return new if self._queue.publish(new, seen) else None

    def is_final(self, token: Token) -> bool:
        """Say whether a token cannot be refreshed: it is used until it expires (P7)."""
        return self._needs_refresh_token and token.refresh_token is None

    def end_here(self, state: State) -> None:
        """Publish that the token of ``state`` is of no use any more; nothing is stored."""
        current = self._queue.current
        if current.state is state:
            self._queue.publish(Current(state, None), current)

    def _current(self, state: State | None) -> Current:
        """Work out what to publish: a token object that has not been published before.

        A late 401 is told by the identity of the token that it rejected (P3), and a user's
        callable may return the same object twice.
        """
        token = None if state is None else state.token
        if state is not None and token is not None:
            if token in self._published:
                state = dataclasses.replace(state, token=token.twin())
            assert state.token is not None  # noqa: S101 (for the type checker)
            self._published.add(state.token)
            if self.is_final(state.token):
                end = math.inf if token.expires_at is None else token.expires_at
                return Current(state, state.token, end, end, end)
        return current_of(state, self._refresh_ahead, self._clock())
