"""The server's log: immutable events in order, counters, and questions about them.

Events name tokens by serial number only, so a log can be printed anywhere.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload


@dataclasses.dataclass(frozen=True, repr=False)
class Event:
    """One thing that happened at the server, recorded before its answer is sent.

    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> server = AuthorizationServer()
    >>> token = server.sign_in()
    >>> server.log[0]
    Event(number=0, kind='sign-in', family=1, issued_refresh=1, issued_access=1)

    ``kind``
        ``"sign-in"``; ``"sign-in-refused"`` (a code or a device's poll); ``"device"``;
        ``"exchange"`` (any other grant, also if a fault prevented its processing);
        ``"resource"``; ``"open"`` (an unprotected path); ``"revocation"`` (RFC 7009);
        ``"early-revocation"``; ``"gate-opened"``, ``"gate-timeout"``, ``"token-held"``;
        ``"error"`` (a test's handler raised; ``reason`` names the exception).
    ``began``, ``at``, ``wall``
        When the request arrived and when the event was recorded, in seconds by
        :func:`time.monotonic`; ``wall`` is the latter by the server's clock.
    ``outcome``
        Of an exchange: ``"granted"``, ``"refused"``, or ``"faulted"`` (not processed).
    ``error``, ``reason``
        The OAuth error code of the answer, and its cause: ``"reuse"``,
        ``"revoked"``, ``"expired"``, ``"unknown"``, ``"missing"``, ``"forbidden"``...
    ``family``, ``refresh``, ``access``
        Serial numbers of the token family, the refresh token presented, and the
        access token: the one presented to a resource, or the one last issued
        with the refresh token of an exchange.
    ``issued_refresh``, ``issued_access``
        Serial numbers of the tokens issued.
    ``access_rejections``, ``access_left``
        Of an exchange: how many 401s ``access`` had received by then, and the
        seconds until its expiry (negative once expired).
    ``fault``
        The fault that changed the answer, if any: ``"drop after"``, ``"status 503"``...
    ``grace``
        Whether a spent refresh token was accepted again within the grace window.
    """

    number: int
    kind: str
    at: float
    wall: float
    began: float
    method: str | None = None
    path: str | None = None
    status: int | None = None
    grant: str | None = None
    outcome: str | None = None
    error: str | None = None
    reason: str | None = None
    family: int | None = None
    refresh: int | None = None
    access: int | None = None
    issued_refresh: int | None = None
    issued_access: int | None = None
    access_rejections: int = 0
    access_left: float | None = None
    fault: str | None = None
    grace: bool = False

    def __repr__(self) -> str:
        """Show the fields that differ from their defaults, without the times."""
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name not in ("at", "wall", "began")
            and getattr(self, field.name) != field.default
        )
        return f"Event({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Counters:
    """How often each thing has happened so far.

    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> server = AuthorizationServer()
    >>> token = server.sign_in()
    >>> server.counters.sign_ins
    1

    ``requests`` and ``rejected`` count requests for protected resources and the
    401s among them. ``exchanges`` = ``granted`` + ``refused`` + ``faulted``.
    ``revocations`` counts requests to the revocation endpoint.
    """

    requests: int = 0
    rejected: int = 0
    exchanges: int = 0
    granted: int = 0
    refused: int = 0
    faulted: int = 0
    reuse_detections: int = 0
    revocations: int = 0
    early_revocations: int = 0
    sign_ins: int = 0


def _counted(event: Event) -> Iterator[str]:
    """Yield the names of the counters that ``event`` increments."""
    if event.kind == "resource":
        yield "requests"
        if event.status == 401:
            yield "rejected"
    elif event.kind == "exchange":
        yield "exchanges"
        if event.outcome is not None:
            yield event.outcome
        if event.reason == "reuse":
            yield "reuse_detections"
    else:
        name = event.kind.replace("-", "_") + "s"
        if name in Counters.__dataclass_fields__:
            yield name


class EventLog(Sequence[Event]):
    """The events so far, oldest first. Thread-safe; events are never removed.

    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> server = AuthorizationServer()
    >>> token = server.sign_in()
    >>> [event.family for event in server.log.of("sign-in")]
    [1]

    Callers may append with the lock of the changed state held, so events are in the
    order of the changes. The log calls only predicates with its own Condition held.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the Condition, which a thread of the parent may hold."""
        self._changed = threading.Condition()

    def append(self, kind: str, *, began: float | None = None, **fields: Any) -> Event:
        """Record an event of ``kind`` now, wake the waiting threads, and return the event."""
        with self._changed:
            now = time.monotonic()
            event = Event(
                number=len(self._events),
                kind=kind,
                at=now,
                wall=self._clock(),
                began=now if began is None else began,
                **fields,
            )
            self._events.append(event)
            self._counts.update(_counted(event))
            self._changed.notify_all()
        return event

    def wake(self) -> None:
        """Make :meth:`wait_for` check its predicate again without a new event."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Wait until ``predicate()`` is true, then return True; it is checked after each event.

        Raises ``TimeoutError``, with the counters, after ``timeout`` seconds.
        """
        with self._changed:
            if self._changed.wait_for(predicate, timeout):
                return True
        raise TimeoutError(f"condition not met within {timeout:g} s; so far: {self.counters}")

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters."""
        with self._changed:
            return Counters(**self._counts)

    def of(self, kind: str, **fields: object) -> list[Event]:
        """Return the events of ``kind`` whose fields have the given values."""
        return [
            event
            for event in self
            if event.kind == kind and all(getattr(event, k) == v for k, v in fields.items())
        ]

    def rejections(self) -> Counter[int | None]:
        """Return the number of 401s for each access token, by serial number."""
        return Counter(event.access for event in self.of("resource", status=401))

    def unneeded_exchanges(self, leeway: float = 0.0) -> list[Event]:
        """Return the exchanges whose access token was neither rejected nor due.

        A token is due when it has at most ``leeway`` seconds left.
        """
        return [
            event
            for event in self.of("exchange")
            if event.access_left is not None
            and event.access_left > leeway
            and not event.access_rejections
        ]

    def overlapping_exchanges(self) -> list[tuple[Event, Event]]:
        """Return the pairs of exchanges in flight at the same time with the same refresh token."""
        pairs = []
        open_ones: list[Event] = []
        for event in sorted(self.of("exchange"), key=lambda e: e.began):
            open_ones = [other for other in open_ones if other.at > event.began]
            if event.refresh is not None:
                pairs += [(o, event) for o in open_ones if o.refresh == event.refresh]
                open_ones.append(event)
        return pairs

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events[:])

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._events[index]

    def __repr__(self) -> str:
        return f"<EventLog: {len(self)} events, {self.counters}>"
