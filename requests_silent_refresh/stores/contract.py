"""The contract of token stores, and the base class of every kind.

A state is (lineage, generation, token). A sign-in starts a lineage, and each save after it
increments the generation. A sign-out stores a state too: the tombstone, whose token is ``None``.
Two processes can therefore always tell which state is newer, and a late writer cannot overwrite
a newer session unnoticed.

There are two locks. The *exclusive* lock is held during an exchange and ensures P1 (one exchange
per expired token). The *write* lock is held only for a compare and a replace, and protects the
state. ``save`` and ``clear`` take only the write lock, so a sign-in never waits for an exchange.
Code that needs both locks takes the exclusive lock first.
"""

from __future__ import annotations

import dataclasses
import secrets
from abc import ABC, abstractmethod

from .. import arguments
from ..errors import StoreUnavailable, WrongIdentity
from ..token import Token


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """One state of a session in a store. Immutable.

    ``lineage`` is random, one per sign-in. ``generation`` starts at 1 and never
    decreases within a lineage. ``token`` is ``None`` in the tombstone that is
    stored when the session is signed out or refused by the server. ``identity`` says
    whose tokens these are, the token endpoint and the client; ``None`` if that is unknown.
    """

    lineage: str
    generation: int
    token: Token | None
    identity: str | None = None

    def is_same(self, other: State | None) -> bool:
        """Return whether both are the same state. Does not compare the tokens."""
        return (
            other is not None
            and self.lineage == other.lineage
            and self.generation == other.generation
        )

    def followed_by(self, token: Token | None) -> State:
        """Return the next generation of this lineage."""
        return State(self.lineage, self.generation + 1, token, self.identity)

    @classmethod
    def first(cls, token: Token, identity: str | None = None) -> State:
        """Return the first state of a new lineage, as a sign-in stores it."""
        return cls(secrets.token_hex(16), 1, token, identity)

    def check_identity(self, identity: str | None) -> None:
        """Raise ``WrongIdentity`` if this is a living session of another server or client."""
        if self.token is None or None in (identity, self.identity) or identity == self.identity:
            return
        raise WrongIdentity(
            f"the store holds a session of {self.identity}, and this program is set up for "
            f"{identity}: use another path or name, sign out there first, or call the store's "
            "reset()",
            stored_identity=self.identity,
            identity=identity,
        )


class StateMoved(Exception):  # noqa: N818 (not an error: the caller adopts `state`)
    """A compare-and-set found another state; ``state`` is the one that is stored.

    The manager adopts that state, so users of the library never see this exception.
    """

    def __init__(self, state: State | None) -> None:
        super().__init__("the stored state has changed")
        self.state = state


def must_write(new: State, after: State | None, stored: State | None) -> bool:
    """Compare for :meth:`TokenStore.replace`. Must be called with the write lock held.

    Returns True if ``new`` must be written, and False if it is already stored because an earlier
    attempt failed only after writing it. Raises :class:`StateMoved` if the stored state is not
    ``after``, or is a later state of ``new``'s own lineage: a generation never decreases. Raises
    ``WrongIdentity`` if ``new`` would replace a living session of another server or client.
    """
    if stored is not None and new.is_same(stored):
        if _content(new) == _content(stored):
            return False
        raise StateMoved(stored)
    if after is not None and not after.is_same(stored):
        raise StateMoved(stored)
    if stored is not None and new.lineage == stored.lineage and new.generation < stored.generation:
        raise StateMoved(stored)
    if stored is not None:
        stored.check_identity(new.identity)
    return True


def _content(state: State) -> dict[str, object] | None:
    return None if state.token is None else state.token.to_dict()


class LockLost(StoreUnavailable):
    """The exclusive lock was lost before the refresh token was sent; nothing has happened.

    Users of the library see it only if there is no time left for another try.
    """


class Hold(ABC):
    """The exclusive lock while it is held; a context manager that releases it.

    Any thread of the process may release it, not only the one that took it.
    """

    interrupted_at: float | None = None
    """Unix time at which an earlier refresh of the stored state began, if it was never
    finished (its process died) or never answered; ``None`` if there was none."""

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        """Prepare the store for the exchange of ``state``'s refresh token.

        Called last before the token is sent. Reserves room for the result, so that
        a full disk is found before the token is spent, and leaves a mark that
        survives a crash. A lock with a time limit is prolonged for the exchange,
        which takes at most ``exchange_timeout`` seconds. Raises ``StoreUnavailable``
        if there is no room, and :class:`LockLost` if the lock may have been lost.
        """

    def still_held(self) -> bool:
        """Return whether there is still time for the exchange after ``begin``.

        Called immediately before the refresh token is sent, by the thread that sends
        it, because the process may have been stopped since ``begin``. Does no I/O.
        """
        return True

    def unanswered(self) -> None:
        """Record that the exchange was not answered, so the token may have been spent.

        The mark of ``begin`` then outlives the lock, as after a crash, and is removed
        with the next state. It only makes a message clearer. Never raises.
        """

    def extend(self) -> None:
        """Keep the lock while a granted token has not been saved yet (P4).

        Never raises: if the lock was lost or the engine is down, the next save decides.
        """

    @abstractmethod
    def release(self) -> None:
        """Release the lock. Safe to call twice; does not raise if the lock was lost.

        Any other exception is logged and does not change the outcome of the refresh.
        """

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class TokenStore(ABC):
    """Keeps the session's state. Thread-safe; process-safe if ``shared``.

    >>> store: TokenStore = EncryptedFileStore("tokens")
    >>> state = store.save(Token("access", "refresh"), after=None)
    >>> state.is_same(store.load())
    True

    A custom store implements ``load``, ``replace`` and ``exclusive``. Its tests
    inherit :class:`requests_silent_refresh.testing.StoreContract`.
    """

    shared: bool = True
    """Whether other processes, for example a forked child, see the same state."""

    look_interval: float = 30.0
    """Seconds after which a manager in use looks whether somebody has signed out, or in, in
    another process. Set it on the store, or in a subclass, before the manager is made."""

    @abstractmethod
    def load(self) -> State | None:
        """Return the newest complete state; ``None`` if none was ever stored.

        Does not wait for an exchange. Raises ``WrongKey``, ``StoreCorrupted`` or
        ``StoreUnavailable``.
        """

    @abstractmethod
    def replace(self, new: State, after: State | None) -> None:
        """Store ``new`` if the stored state still is ``after`` (lineage and generation).

        ``after=None`` replaces any state that can be read. A corrupt state, or one
        encrypted with another key, is an error and never overwritten. After this
        has returned, ``new`` survives the death of the process. Raises
        :class:`StateMoved`, ``WrongIdentity`` if another server's or client's session is
        stored, and the errors of :meth:`load`. ``must_write`` makes these comparisons.
        """

    @abstractmethod
    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        """Take the lock for an exchange. Blocks for at most ``timeout`` seconds.

        Returns ``None``, without the lock, as soon as the stored state is not ``after``, because
        the token has been refreshed elsewhere. ``after=None`` waits for the lock alone. Raises
        ``StoreUnavailable`` after ``timeout``, naming the holder if it is known.
        """

    def save(self, token: Token, after: State | None) -> State:
        """Store ``token`` as the generation after ``after`` and return that state.

        ``after=None`` is a sign-in: it starts a lineage and replaces any earlier
        session. Raises the same exceptions as :meth:`replace`.
        """
        new = State.first(token) if after is None else after.followed_by(token)
        self.replace(new, after)
        return new

    def clear(self, after: State) -> State:
        """Erase the tokens: store the tombstone after ``after`` and return it."""
        new = after.followed_by(None)
        self.replace(new, after)
        return new

    def close(self) -> None:
        """Close open connections and drop cached data. The store can be used again."""


def check_stores(**stores: object) -> None:
    """Raise ``TypeError``, naming the argument, for one that is not a store."""
    methods = ("load", "replace", "exclusive", "save", "clear")
    arguments.able(methods, "a TokenStore, such as EncryptedFileStore('~/tokens')", **stores)
