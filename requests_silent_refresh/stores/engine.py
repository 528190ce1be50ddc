"""The steps that a store needs from an engine (Redis, a database), one round trip each."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..keys import KeyFile, KeySource, as_source, default_key_file
from ..redaction import Secret, strip
from ..secret_sources import ask
from ..system.background_call import Call, LeftBehind
from .contract import LockLost

T = TypeVar("T")

Seen = tuple[str, int]
"""Lineage and generation of the state that a caller has seen."""

NOTHING: Seen = ("", 0)

_NAME_LIMIT = 200

# Steps of one engine that may hang at once. Each has a thread and a connection.
_HUNG_LIMIT = 4


class Row(NamedTuple):
    """The parts of a state that an engine sees."""

    lineage: str
    generation: int
    key_id: str
    content: bytes

    @property
    def seen(self) -> Seen:
        """The lineage and generation of the row."""
        return self.lineage, self.generation


class Held(NamedTuple):
    """The answer to a request for a lease that was not given.

    With a holder of ``None`` and no time left, the request came after its deadline.
    """

    holder: str | None
    seconds_left: float


TOO_LATE = Held(None, 0.0)


class Unanswered(LockLost):
    """The engine cannot be reached, or the connection was closed before its answer.

    The step may have been carried out. A lease that the caller has may be lost.
    """


class Silent(Unanswered):
    """Nobody waits for the answer: the engine may still carry the step out, until its deadline."""


class Engine(ABC):
    """One session's row in an engine. Thread-safe.

    Each step is one atomic statement or script, and no transaction or connection is
    held between two steps. All times are measured by the engine's clock. Each step
    can be repeated, because a step whose answer was lost may have been carried out.

    A step blocks for at most :attr:`patience` seconds. It runs in a separate thread,
    because not all drivers support timeouts, and none can limit name resolution.
    After a timeout the thread and its connection are left behind. While four of them
    hang, further steps wait for one of these instead of adding another.

    An engine that was stopped carries out what it finds in its sockets when it continues,
    in any order, also from connections that were closed long ago. So a step that takes a
    lease has a deadline by the engine's clock (:meth:`deadline`), and does nothing after it.

    ``given`` is a URL, a callable that returns one, or None if ``client``, the
    caller's own, is used. ``shown`` stands for it in messages.
    """

    #: Seconds that a step may take before the engine counts as unreachable.
    patience = 2.0
    #: The names that error messages use: of the store, and of what it can be given.
    store, client_name = "store", "client"

    def __init__(self, given: Any, client: Any, shown: str) -> None:
        # A URL may hold a password.
        self._given = Secret(given) if isinstance(given, str) else given
        self._is_ours = client is None
        self._of_parents: list[Any] = []
        self._shown = shown
        self._hung: list[Call[Any]] = []
        self._ahead: float | None = None  # seconds, of the engine's clock before `steady`
        self._client = self.connect(given) if isinstance(given, str) else client

    @abstractmethod
    def read(self) -> Row | None:
        """Return the row; ``None`` if no state was ever stored. Notes the engine's clock."""

    @abstractmethod
    def write(self, row: Row, seen: Seen, owner: str) -> bool:
        """Store ``row`` if the stored lineage and generation are ``seen``, else return False.

        Also ends a lease of ``owner`` and removes any mark of :meth:`begin`.
        """

    @abstractmethod
    def take(
        self, owner: str, holder: str, seconds: float, seen: Seen | None, deadline: int
    ) -> Held | bool:
        """Give ``owner`` the lease. Returns False if the stored state is not ``seen``."""

    @abstractmethod
    def begin(self, owner: str, seen: Seen, seconds: float, deadline: int) -> bool:
        """Set the lease of ``owner`` to ``seconds``, and leave a mark unless there is one.

        Returns False and does nothing if the lease has expired, the state changed or the
        deadline has passed.
        """

    @abstractmethod
    def extend(self, owner: str, holder: str, seconds: float, seen: Seen, deadline: int) -> bool:
        """Give ``owner`` a lease of ``seconds``.

        Returns False if another owner has one, the stored state is not ``seen`` or the deadline
        has passed.
        """

    @abstractmethod
    def release(self, owner: str, keep_mark: bool = False) -> None:
        """End the lease of ``owner`` and remove its mark. Those of other owners stay."""

    @abstractmethod
    def interrupted(self, owner: str) -> float | None:
        """Return the Unix time of a mark that another owner left; ``None`` if there is none."""

    @abstractmethod
    def set_aside(self, name: str) -> bool:
        """Rename the row to ``name``. Returns False if there is no row."""

    @abstractmethod
    def trouble(self, error: Exception) -> StoreError | None:
        """Return the error for an exception of the driver; ``None`` for other exceptions."""

    @abstractmethod
    def connect(self, url: str) -> Any:
        """Make a client for ``url``, without connecting. Raises ``ValueError``, ``ImportError``."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close all connections that are ours, without waiting for those that are in use."""

    @abstractmethod
    def holds_password(self, url: str) -> bool:
        """Return whether ``url`` contains a password."""

    @property
    def client(self) -> Any:
        """The client; made now if a callable returns the URL. Raises ``StoreError`` then."""
        client, given = self._client, self._given
        if client is None:
            if isinstance(given, Secret):
                url = given.reveal()
            else:
                url = ask(given, "the URL", failed=StoreError, unavailable=StoreUnavailable)
            try:
                client = self._client = self.connect(url)
            except ValueError as error:
                raise StoreError(f"the store was given an unusable URL: {error}") from None
        return client

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""
        # Kept, so that no finalizer closes the session on a socket of the parent.
        self._of_parents.append(self._client)
        self._hung = []
        if self._is_ours:
            self._client = None

    def for_pickle(self) -> Any:
        """Return what a pickle may hold. Raises ``TypeError`` for a password or a client."""
        if not self._is_ours:
            raise TypeError(
                f"cannot pickle a {self.store} that was given {self.client_name}: give it a URL, "
                "or a callable that returns one"
            )
        if not isinstance(self._given, Secret):
            return self._given
        url = self._given.reveal()
        if self.holds_password(url):
            raise TypeError(
                f"cannot pickle a {self.store} whose URL holds a password, because the pickle "
                "would contain it: give it a callable that returns the URL, for example "
                "FromEnvironment('STORE_URL')"
            )
        return url

    def rejected(self, error: BaseException) -> StoreError:
        """Return the error for a step that would fail again."""
        return StoreError(f"{self} rejected the request: {told_by(error)}")

    def rejected_login(self, error: BaseException) -> StoreError:
        """Return the error for a login that would fail again."""
        return StoreError(
            f"{self} rejected the login, check the user, the password and its rights: "
            f"{told_by(error)}"
        )

    def unavailable(self, error: BaseException) -> StoreUnavailable:
        """Return the error for a step that may succeed later."""
        # A driver that stopped waiting has closed its own end only.
        timed_out = any(isinstance(link, TimeoutError) for link in chain_of(error))
        kind = Silent if timed_out else Unanswered
        return kind(f"{self} is unavailable, try again later: {told_by(error)}")

    def notes_time(self, now: int) -> None:
        """Note the engine's clock, in milliseconds of Unix time, as an answer told it.

        It is taken to be late by the time that the answer took, so no deadline is too late.
        """
        self._ahead = now / 1000 - steady()

    def deadline(self, patience: float) -> int:
        """Return the engine's time at which a caller with ``patience`` seconds stops waiting.

        In milliseconds of Unix time. Asks the engine for its clock if it is not known yet.
        """
        if self._ahead is None:
            self.ask(self.read)
        assert self._ahead is not None  # noqa: S101 (for the type checker: `read` notes it)
        return milliseconds(self._ahead + steady() + patience)

    def __str__(self) -> str:
        return self._shown

    def ask(self, step: Callable[[], T], patience: float | None = None) -> T:
        """Call ``step`` and return its answer. Blocks for at most ``patience`` seconds.

        Raises :class:`Unanswered`, a ``StoreUnavailable``, if the engine cannot be reached or
        does not answer in time, and ``StoreError`` if it refuses.
        """
        limit = self.patience if patience is None else patience
        until = time.monotonic() + limit
        hung = self._hung = [call for call in self._hung if not call.ended]
        if len(hung) >= _HUNG_LIMIT and not hung[0].wait(limit):
            raise self._silent(limit)
        call = Call(step, lambda answer: None, "silent-refresh-store")
        try:
            return call.result(max(0.0, until - time.monotonic()))
        except LeftBehind:
            self._hung.append(call)
            self.disconnect()
            raise self._silent(limit) from None
        except ValueError:  # from None: the error quotes the value
            raise StoreCorrupted(
                f"{self} holds a damaged state, another program changed it: restore it, or call "
                "the store's reset() and sign in again"
            ) from None
        except Exception as error:
            trouble = self.trouble(error)
            if trouble is None:
                raise
            raise trouble from strip(error)

    def _silent(self, seconds: float) -> Silent:
        return Silent(
            f"{self} has not answered for {seconds:g} s: check that it and the network are up"
        )


def checked_name(name: object) -> str:
    """Return ``name``; raises ``ValueError`` if a session cannot have that name."""
    good = isinstance(name, str) and name.isprintable() and name == name.strip()
    if isinstance(name, str) and good and 0 < len(name) <= _NAME_LIMIT:
        return name
    raise ValueError(
        f"name must be 1 to {_NAME_LIMIT} printable characters, without spaces at either end"
    )


def fleet_key(key: Any) -> KeySource:
    """Return the source for ``key``; raises ``ValueError`` for the default key file."""
    given = key if isinstance(key, (list, tuple)) else [key]
    files = [one.path for one in given if isinstance(one, KeyFile)]
    if None in given or (files and default_key_file().path in files):
        raise ValueError(
            "the default key file exists on this machine only, so no other host could read the "
            "tokens: use key=FromEnvironment('NAME'), FromFile('/run/secrets/name') or a function "
            "that asks your key service"
        )
    return as_source(key)


def milliseconds(seconds: float) -> int:
    """Return the duration as engines store it."""
    return int(seconds * 1000)


def steady() -> float:
    """Return seconds by a clock that continues while the machine sleeps, if there is one.

    For durations only; hosts compare the engine's clock.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def told_by(error: BaseException) -> str:
    """Return a driver's error without its text, which may quote a URL or a statement's values.

    What is left are its type, the engine's code for it (of SQL, MySQL or Redis) and the text of
    the operating system's error that caused it.
    """
    codes: list[object] = [getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)]
    codes += [a for a in error.args[:1] if isinstance(a, int) and a < 10_000]
    if type(error).__module__.startswith("redis."):
        codes += re.findall(r"^[A-Z]{3,12}(?= )", str(error))
    numbers = (link.errno for link in chain_of(error) if isinstance(link, OSError))
    known = (number for number in numbers if number is not None and number in errno.errorcode)
    codes += [os.strerror(number) for number in itertools.islice(known, 1)]
    told = ", ".join(str(code) for code in codes if code is not None)
    return type(error).__name__ + (f" ({told})" if told else "")


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it; nine at most, because a chain may be a circle."""
    link: BaseException | None = error
    for _ in range(9):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def one_line(error: object) -> str:
    """Return the error's message on one line, cut to 200 characters."""
    return " ".join(str(error).split())[:200]
