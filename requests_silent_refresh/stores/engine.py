"""What a store on an engine (Redis, a database) asks of it, one round trip each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ..errors import StoreError, StoreUnavailable
from ..keys import KeyFile, KeySource, as_source, default_key_file
from ..redaction import strip
from ..secret_sources import ask
from ..system.background_call import Call, LeftBehind

T = TypeVar("T")

Seen = tuple[str, int]
"""Lineage and generation of the state that an asker has seen."""

NOTHING: Seen = ("", 0)

_NAME_LIMIT = 200


class Row(NamedTuple):
    """What an engine sees of a state."""

    lineage: str
    generation: int
    key_id: str
    content: bytes

    @property
    def seen(self) -> Seen:
        """Its lineage and generation."""
        return self.lineage, self.generation


class Held(NamedTuple):
    """The answer to who asked for a lease that somebody else has."""

    holder: str | None
    seconds_left: float


class LeftAlone(StoreUnavailable):
    """The engine did not answer in time; what it was asked for may still be done."""


class Engine(ABC):
    """One session's row in an engine, and how long an answer is waited for. Thread-safe.

    Each step is one statement (or script), atomic by itself; no transaction and
    no connection is held between two of them. All times are the engine's own. A
    step whose answer was lost may have been done, so each can be repeated.

    No answer is waited for longer than :attr:`patience` seconds. The step runs in
    a thread of its own, because drivers differ in what they can bound and name
    resolution no one can; it is left behind with its connection, and what it
    brings after all is handed to whoever undoes it.
    """

    #: Seconds that a step may take before the engine counts as out of reach.
    patience = 2.0

    @abstractmethod
    def read(self) -> Row | None:
        """Return the row; ``None`` where no state was ever stored."""

    @abstractmethod
    def write(self, row: Row, seen: Seen, owner: str) -> bool:
        """Store ``row`` if lineage and generation still are ``seen``; say whether they were.

        A lease of ``owner`` ends with it, and so does any mark of :meth:`begin`.
        """

    @abstractmethod
    def take(self, owner: str, holder: str, seconds: float, seen: Seen | None) -> Held | bool:
        """Give ``owner`` the lease; ``False`` where the state is another one than ``seen``."""

    @abstractmethod
    def begin(self, owner: str, seen: Seen, seconds: float) -> bool:
        """Set the lease of ``owner`` to ``seconds`` and leave a mark, unless there is one.

        ``False``, and nothing is done, where the lease has run out or the state moved.
        """

    @abstractmethod
    def extend(self, owner: str, holder: str, seconds: float, seen: Seen) -> bool:
        """Give ``owner`` a lease of ``seconds``, and say whether that could be.

        It cannot where somebody else has one or the state is another one than ``seen``.
        """

    @abstractmethod
    def release(self, owner: str, keep_mark: bool = False) -> None:
        """End the lease of ``owner``, and remove its mark; do nothing to anybody else's."""

    @abstractmethod
    def interrupted(self, owner: str) -> float | None:
        """Return when the mark of somebody else than ``owner`` was left, as Unix time."""

    @abstractmethod
    def set_aside(self, name: str) -> bool:
        """Give the row another ``name``; ``False`` where there is none."""

    @abstractmethod
    def trouble(self, error: Exception) -> StoreError | None:
        """Say what an exception of the driver means; ``None`` where it is none of the driver's."""

    @abstractmethod
    def disconnect(self) -> None:
        """Give up all connections, without waiting for those that are in use."""

    @abstractmethod
    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""

    def ask(
        self,
        step: Callable[[], T],
        patience: float | None = None,
        late: Callable[[T], object] = lambda answer: None,
    ) -> T:
        """Do ``step`` and return its answer, waiting ``patience`` seconds at most.

        Raises ``StoreUnavailable`` where the engine cannot be reached,
        :class:`LeftAlone` where it does not answer (``late`` gets the answer if it
        comes after all), and ``StoreError`` where it refuses.
        """
        limit = self.patience if patience is None else patience

        def undo(answer: T) -> None:
            try:
                late(answer)
            except Exception as error:  # noqa: BLE001 (a lease that is not given back runs out)
                strip(error)

        call = Call(step, undo, "silent-refresh-store")
        try:
            return call.result(limit)
        except LeftBehind:
            self.disconnect()
            raise LeftAlone(
                f"{self} has not answered for {limit:g} s: is it up, and the network?"
            ) from None
        except Exception as error:
            trouble = self.trouble(error)
            if trouble is None:
                raise
            raise trouble from strip(error)


def checked_name(name: object) -> str:
    """Return ``name`` if a session in an engine can be called that; else ``ValueError``."""
    good = isinstance(name, str) and name.isprintable() and name == name.strip()
    if isinstance(name, str) and good and 0 < len(name) <= _NAME_LIMIT:
        return name
    raise ValueError(
        f"name is what the session is called in the engine: 1 to {_NAME_LIMIT} printable characters"
    )


def fleet_key(key: Any) -> KeySource:
    """Make a source of ``key``; refuse the key file that each machine makes for itself."""
    given = key if isinstance(key, (list, tuple)) else [key]
    default = default_key_file().path
    if any(one is None or (isinstance(one, KeyFile) and one.path == default) for one in given):
        raise ValueError(
            "the default key file is this machine's own, so no other host could read the tokens: "
            "give key=FromEnvironment('NAME'), FromFile('/run/secrets/name') or a function that "
            "asks your key service"
        )
    return as_source(key)


def asked_for(source: Any, connect: Callable[[str], T]) -> T:
    """Return what ``connect`` makes of the URL that ``source`` is or returns.

    Raises ``StoreError`` where that fails, ``StoreUnavailable`` for an ``OSError``.
    """
    if callable(source):
        source = ask(source, "the engine's URL", failed=StoreError, unavailable=StoreUnavailable)
    try:
        return connect(source)
    except ValueError as error:
        raise StoreError(f"the store's engine has no URL that can be used: {error}") from None
