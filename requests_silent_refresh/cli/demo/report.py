"""What the demo measured, mostly read from the server's log instead of from the client."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from ...testing.events import Event


@dataclasses.dataclass(frozen=True)
class Report:
    """The demo's outcome. A wait is the seconds from a 401 to the arrival of its replay."""

    session: str
    state: str
    threads: int
    expiries: int
    seconds: float
    requests: int
    failures: int
    first_error: str | None
    rejected_per_expiry: list[int]
    exchanges_at_start: int
    exchanges_per_expiry: list[int]
    reuse_detections: int
    wait_median: float | None
    wait_p99: float | None

    @property
    def ok(self) -> bool:
        """Whether no request failed and each expiry cost exactly one exchange."""
        return self.failures == 0 and self.exchanges_per_expiry == [1] * self.expiries

    def as_json(self, snippet: Report | None = None) -> str:
        """Return the report as a JSON object, and that of the snippet, if any, in its field."""
        fields = {**dataclasses.asdict(self), "ok": self.ok}
        if snippet is not None:
            fields["snippet"] = dataclasses.asdict(snippet)
        return json.dumps(fields, indent=2)

    def as_table(self, snippet: Report | None = None) -> str:
        """Return the report as a table for people, beside that of the snippet, if any."""
        columns = [self] if snippet is None else [snippet, self]
        rows: list[tuple[str, ...]] = (
            [] if snippet is None else [("", "the snippet", "this library")]
        )
        for name, cell in _ROWS:
            cells = [cell(report) for report in columns]
            if any(cells):
                rows.append((name, *(text or "-" for text in cells)))
        if self.first_error is not None:
            rows.append(("first error", self.first_error))
        return "\n".join("".join(f"{text:<18}" for text in row).rstrip() for row in rows)


def measure(log: Iterable[Event], expiries: int) -> dict[str, Any]:
    """Return the fields of a :class:`Report` that come from the server's log."""
    rejected = [0] * (expiries + 1)
    exchanges = [0] * (expiries + 1)
    reuse_detections = expiry = 0
    waits: list[float] = []
    rejected_at: dict[str | None, float] = {}
    for event in log:
        if event.kind == "early-revocation":
            expiry = min(expiry + 1, expiries)
        elif event.kind == "exchange":
            exchanges[expiry] += 1
            reuse_detections += event.reason == "reuse"
        elif event.kind == "resource":
            # Each thread has its own path, so the next request to that path is the replay.
            since = rejected_at.pop(event.path, None)
            if since is not None:
                waits.append(event.began - since)
            if event.status == 401:
                rejected[expiry] += 1
                rejected_at[event.path] = event.at
    return {
        "rejected_per_expiry": rejected[1:],
        "exchanges_at_start": exchanges[0],
        "exchanges_per_expiry": exchanges[1:],
        "reuse_detections": reuse_detections,
        "wait_median": percentile(waits, 0.5),
        "wait_p99": percentile(waits, 0.99),
    }


def percentile(values: list[float], share: float) -> float | None:
    """Return the ``share`` percentile (0 to 1, nearest rank); ``None`` if there are no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _numbers(numbers: Iterable[object]) -> str:
    return " ".join(str(number) for number in numbers)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f} s"


# The cells of a row are empty where it says nothing; a row without any is left out.
_ROWS: list[tuple[str, Callable[[Report], str]]] = [
    ("threads", lambda report: f"{report.threads}"),
    ("requests", lambda report: f"{report.requests:,}"),
    ("failures", lambda report: f"{report.failures:,}"),
    ("401s", lambda report: f"{sum(report.rejected_per_expiry):,}"),
    ("  per expiry", lambda report: _numbers(report.rejected_per_expiry)),
    ("exchanges", lambda report: f"{sum(report.exchanges_per_expiry)}"),
    ("  at the start", lambda report: _numbers([report.exchanges_at_start or ""])),
    ("  per expiry", lambda report: _numbers(report.exchanges_per_expiry)),
    ("reuse detections", lambda report: f"{report.reuse_detections}"),
    ("session", lambda report: "lost" if report.reuse_detections else "kept"),
    ("wait, median", lambda report: _duration(report.wait_median)),
    ("wait, p99", lambda report: _duration(report.wait_p99)),
]
