"""Times in words, for people."""

from __future__ import annotations

import time


def until(moment: float | None) -> str:
    """Return the time left until the Unix time ``moment``: ``in 59 min``. ``None`` is unknown."""
    if moment is None:
        return "at a time the server did not state"
    seconds = moment - time.time()
    return f"in {span(seconds)}" if seconds > 0 else "now"


def since(moment: float | None) -> str:
    """Return the time since the Unix time ``moment``: ``3 min ago``; empty if ``None``."""
    return "" if moment is None else f"{span(max(0.0, time.time() - moment))} ago"


def span(seconds: float) -> str:
    """Return a duration in its largest unit that fits twice, rounded down: ``59 min``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
