"""Times as people read them."""

from __future__ import annotations

import time


def until(moment: float | None) -> str:
    """Say how long it is until the Unix time ``moment``: ``in 59 min``; ``None`` is unknown."""
    if moment is None:
        return "at a time the server did not say"
    seconds = moment - time.time()
    return f"in {span(seconds)}" if seconds > 0 else "now"


def since(moment: float | None) -> str:
    """Say how long ago ``moment`` was: ``3 min ago``."""
    return "" if moment is None else f"{span(max(0.0, time.time() - moment))} ago"


def span(seconds: float) -> str:
    """Write a duration in its largest unit, rounded down: ``59 min``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
