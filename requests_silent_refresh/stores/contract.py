"""What a token store promises, and the base that every kind inherits.

A state is (lineage, generation, token). A sign-in starts a lineage; each save
after it adds one to the generation; a sign-out is a state too, the tombstone,
whose token is ``None``. So two processes can always tell whose state is newer,
and a late writer is noticed instead of overwriting a newer session.

Two locks. The *exclusive* lock is held for the length of an exchange and
carries P1 (one exchange per expired token). The *write* lock is held for a
compare and a replace only and protects the state. ``save`` and ``clear`` take
only the second, so a sign-in never waits for an exchange. Whoever needs both
takes the exclusive one first.
"""

from __future__ import annotations

import dataclasses
import secrets
from abc import ABC, abstractmethod
from types import TracebackType

from ..errors import StoreUnavailable
from ..token import Token


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """One state of a session in a store. Immutable.

    ``lineage`` is random, one per sign-in. ``generation`` starts at 1 and never
    falls within a lineage. ``token`` is ``None`` in the tombstone that a
    sign-out or the server's refusal leaves.
    """

    lineage: str
    generation: int
    token: Token | None

    def is_same(self, other: State | None) -> bool:
        """Say whether both are one state; the token itself is not looked at."""
        return (
            other is not None
            and self.lineage == other.lineage
            and self.generation == other.generation
        )

    def followed_by(self, token: Token | None) -> State:
        """Return the next generation of this lineage."""
        return State(self.lineage, self.generation + 1, token)

    @classmethod
    def first(cls, token: Token) -> State:
        """Return the state that a sign-in makes."""
        return cls(secrets.token_hex(16), 1, token)


class StateMoved(Exception):  # noqa: N818 (an answer, not an error: the caller adopts `state`)
    """A compare-and-set found another state; ``state`` is the one that is stored.

    Never reaches a user of the library: the manager adopts the newer state.
    """

    def __init__(self, state: State | None) -> None:
        super().__init__("another state is stored by now")
        self.state = state


def must_write(new: State, after: State | None, stored: State | None) -> bool:
    """Compare, for :meth:`TokenStore.replace`; the caller holds the write lock.

    Returns whether ``new`` still has to be written; ``False`` where it is what
    is stored, because an earlier try got that far before it failed. Raises
    :class:`StateMoved` where the stored state is not ``after``, and where it is
    a later one of ``new``'s own lineage: a generation never falls.
    """
    if stored is not None and new.is_same(stored):
        if _content(new) == _content(stored):
            return False
        raise StateMoved(stored)
    if after is not None and not after.is_same(stored):
        raise StateMoved(stored)
    if stored is not None and new.lineage == stored.lineage and new.generation < stored.generation:
        raise StateMoved(stored)
    return True


def _content(state: State) -> dict[str, object] | None:
    return None if state.token is None else state.token.to_dict()


class LockLost(StoreUnavailable):
    """The exclusive lock was lost before the refresh token was sent; nothing has happened.

    Never reaches a user of the library while there is time to try again.
    """


class Hold(ABC):
    """The exclusive lock while somebody has it; a context manager that gives it up.

    May be released by another thread of the process than the one that took it.
    """

    interrupted_at: float | None = None
    """Unix time at which a refresh of the stored state began that was never
    finished (its process died) or answered; ``None`` where nothing points to that."""

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        """Say that ``state``'s refresh token is about to be sent; the last call before it is.

        Reserves room for the result, so that a full disk shows before the token
        is spent, and leaves a mark that survives a crash. A lock that runs out
        by itself does not within ``exchange_timeout`` seconds, which is what the
        exchange may take in all. Raises ``StoreUnavailable`` where there is no
        room, and :class:`LockLost` where somebody else may have the lock by now.
        """

    def still_held(self) -> bool:
        """Say whether there is still time for the exchange that ``begin`` was called for.

        Asked at the very moment before the refresh token is sent, by the thread
        that sends it: the process may have been stopped since ``begin``. No I/O.
        """
        return True

    def unanswered(self) -> None:
        """Say that no answer came to the refresh token, which the server may have spent.

        The mark of ``begin`` then outlives the lock, as after a crash, and ends
        with the next state. Only makes a message clearer; never raises.
        """

    def extend(self) -> None:
        """Keep the lock while a granted token could not be saved yet (P4).

        Never raises: where the lock was lost, or the engine is down, the save
        that follows decides.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the lock up. Safe to call twice; never raises for a lock that was lost.

        What it raises all the same is logged, and changes nothing in what the
        refresh came to.
        """

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class TokenStore(ABC):
    """Where the session's state lives. Thread-safe; safe over processes where ``shared``.

    A store of your own implements ``load``, ``replace`` and ``exclusive``, and
    proves itself by inheriting
    :class:`requests_silent_refresh.testing.StoreContract` in its tests.
    """

    shared: bool = True
    """Whether other processes (a forked child, for one) see the same state."""

    @abstractmethod
    def load(self) -> State | None:
        """Return the newest state, whole; ``None`` where there never was one.

        Takes no lock that an exchange holds. Raises ``WrongKey``,
        ``StoreCorrupted`` or ``StoreUnavailable``.
        """

    @abstractmethod
    def replace(self, new: State, after: State | None) -> None:
        """Store ``new`` if the stored state still is ``after`` (lineage and generation).

        ``after=None`` stores it whatever is there, as long as what is there can
        be read: a state of another key or a corrupt one is an error, never
        overwritten. When this returns, the death of the process cannot lose
        ``new``. Raises :class:`StateMoved`, and the errors of :meth:`load`.
        """

    @abstractmethod
    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        """Take the lock that an exchange holds, waiting ``timeout`` seconds at most.

        Returns ``None`` at once, without the lock, when the stored state is
        another one than ``after``: then somebody else has refreshed.
        ``after=None`` waits for the lock alone. Raises ``StoreUnavailable``,
        naming the holder where it is known, after ``timeout``.
        """

    def save(self, token: Token, after: State | None) -> State:
        """Store ``token`` as the generation after ``after`` and return that state.

        ``after=None`` is a sign-in: it starts a lineage and replaces whatever
        session was there. Raises as :meth:`replace` does.
        """
        new = State.first(token) if after is None else after.followed_by(token)
        self.replace(new, after)
        return new

    def clear(self, after: State) -> State:
        """Wipe the tokens: store the tombstone after ``after`` and return it."""
        new = after.followed_by(None)
        self.replace(new, after)
        return new

    def close(self) -> None:
        """Release what the store holds open. It can be used again afterwards."""
