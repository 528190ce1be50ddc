"""What happened at the server, in order: immutable events, counters, and questions to them.

An event names tokens by serial number only, so a log can be printed anywhere.
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
    """One thing that happened at the server, recorded before anybody could see its answer.

    ``kind``
        ``"sign-in"``; ``"sign-in-refused"`` (a code or a device's poll); ``"device"``;
        ``"exchange"`` (any other grant, also one that a fault kept from being
        processed); ``"resource"``; ``"open"`` (an unprotected path); ``"revocation"`` (RFC 7009);
        ``"early-revocation"``; ``"gate-opened"``, ``"gate-timeout"``, ``"token-held"``;
        ``"error"`` (a handler of a test's own raised; ``reason`` says what).
    ``began``, ``at``, ``wall``
        When the request had arrived and when this was recorded, by
        :func:`time.monotonic` in seconds; and the latter by the server's clock.
    ``outcome``
        Of an exchange: ``"granted"``, ``"refused"``, or ``"faulted"`` (not processed).
    ``error``, ``reason``
        The OAuth error code of the answer, and what was behind it: ``"reuse"``,
        ``"revoked"``, ``"expired"``, ``"unknown"``, ``"missing"``, ``"forbidden"``...
    ``family``, ``refresh``, ``access``
        Serial numbers of the token family, of the refresh token presented, and
        of the access token: at a resource the one presented, in an exchange the
        one that the refresh token had last been issued with.
    ``issued_refresh``, ``issued_access``
        Serial numbers of what was handed out.
    ``access_rejections``, ``access_left``
        Of an exchange: how often ``access`` had got a 401 by then, and for how
        many seconds it would still have been good (negative once expired).
    ``fault``
        The fault that spoilt the answer, if any: ``"drop after"``, ``"status 503"``...
    ``grace``
        Whether a spent refresh token was answered again inside the grace window.
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
        """Say what there is to say: fields at their default are left out."""
        told = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name not in ("at", "wall", "began")
            and getattr(self, field.name) != field.default
        )
        return f"Event({', '.join(told)})"


@dataclasses.dataclass(frozen=True)
class Counters:
    """How often each thing has happened so far.

    ``requests`` and ``rejected`` count requests for protected resources and the
    401s among them. ``exchanges`` = ``granted`` + ``refused`` + ``faulted``.
    ``revocations`` are requests to the revocation endpoint.
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
    """Name the counters that ``event`` raises by one."""
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
    """The events so far, oldest first. Thread-safe; it only grows.

    Its one Condition wakes :meth:`wait_for`. Whoever appends may hold the lock
    of the state that the event is about, so the log's order is the order in
    which that state changed; the log itself calls nothing but predicates.
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
        """Record an event of ``kind`` now and wake whoever waits; returns it."""
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
        """Have :meth:`wait_for` ask again, though nothing was appended."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Wait until ``predicate()`` is true, asked anew after each event; then return True.

        Raises ``TimeoutError``, with the counters, after ``timeout`` seconds.
        """
        with self._changed:
            if self._changed.wait_for(predicate, timeout):
                return True
        raise TimeoutError(f"not within {timeout:g} s; so far: {self.counters}")

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters."""
        with self._changed:
            return Counters(**self._counts)

    def of(self, kind: str, **fields: object) -> list[Event]:
        """Return the events of ``kind`` whose fields have the values given."""
        return [
            event
            for event in self
            if event.kind == kind and all(getattr(event, k) == v for k, v in fields.items())
        ]

    def rejections(self) -> Counter[int | None]:
        """Return how many 401s each access token (its serial number) got."""
        return Counter(event.access for event in self.of("resource", status=401))

    def unneeded_exchanges(self, leeway: float = 0.0) -> list[Event]:
        """Return the exchanges whose access token was neither rejected nor due.

        Due means that it had at most ``leeway`` seconds left.
        """
        return [
            event
            for event in self.of("exchange")
            if event.access_left is not None
            and event.access_left > leeway
            and not event.access_rejections
        ]

    def overlapping_exchanges(self) -> list[tuple[Event, Event]]:
        """Return the pairs of exchanges that were in flight at once with one refresh token."""
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
