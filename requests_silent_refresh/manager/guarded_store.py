"""A user's store, whatever it raises or returns made a ``StoreError`` that quotes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import StoreError, StoreUnavailable
from ..redaction import is_ours, share
from ..stores.contract import Hold, State, StateMoved, TokenStore
from ..system.foreign import account_of, name_of, secrets_of
from ..token import Token

T = TypeVar("T")


def guarded(store: TokenStore) -> TokenStore:
    """Return the store itself if it is one of this package, else one that guards its calls."""
    return store if is_ours(type(store)) else GuardedStore(store)


class GuardedStore(TokenStore):
    """Calls a user's store. An exception's text may quote a token, as database drivers do."""

    def __init__(self, store: TokenStore) -> None:
        self._guard = Guard(name_of(store))
        self._store = store
        self.shared = store.shared
        self.look_interval = getattr(store, "look_interval", self.look_interval)

    def load(self) -> State | None:
        return self._guard(self._store.load, State)

    def replace(self, new: State, after: State | None) -> None:
        self._guard(lambda: self._store.replace(new, after), None, new.token)

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        hold = self._guard(lambda: self._store.exclusive(timeout, after), Hold)
        return None if hold is None else GuardedHold(hold, self._guard)

    def __repr__(self) -> str:
        return self._guard.name


class GuardedHold(Hold):
    """Calls the lock of a user's store likewise."""

    def __init__(self, hold: Hold, guard: Guard) -> None:
        self._hold = hold
        self._guard = guard

    @property
    def interrupted_at(self) -> float | None:  # type: ignore[override]
        return self._guard(lambda: self._hold.interrupted_at, None)

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        self._guard(lambda: self._hold.begin(state, exchange_timeout), None, state.token)

    def still_held(self) -> bool:
        return bool(self._guard(self._hold.still_held, None))

    def extend(self) -> None:
        self._guard(self._hold.extend, None)

    def unanswered(self) -> None:
        self._guard(self._hold.unanswered, None)

    def release(self) -> None:
        self._guard(self._hold.release, None)


class Guard:
    """Makes one call of the store named ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, call: Callable[[], T], kind: type[Any] | None, *tokens: Token | None) -> T:
        """Return what ``call`` returns: a ``kind`` or ``None``, or anything without a ``kind``.

        Raises ``StateMoved`` and a ``StoreError`` as they are, with the secrets of ``tokens``
        masked, ``StoreUnavailable`` for an ``OSError``, and ``StoreError`` for any other
        exception and for a wrong return value.
        """
        try:
            returned = call()
        except StateMoved:
            raise
        except StoreError as error:
            failure: StoreError = share(error, hide=secrets_of(*tokens))
        except Exception as error:  # noqa: BLE001 (a user's store may raise anything)
            broken = StoreUnavailable if isinstance(error, OSError) else StoreError
            said = f"{self.name} failed: {account_of(error, *tokens)}"
            failure = share(broken(said), error, secrets_of(*tokens))
        else:
            if kind is None or returned is None or isinstance(returned, kind):
                return returned
            failure = StoreError(
                f"{self.name} returned {type(returned).__name__}: it must return a "
                f"{kind.__name__} or None"
            )
        raise failure
