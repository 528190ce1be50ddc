"""Warning of a danger once per process, however many sessions, adapters and stores meet it."""

from __future__ import annotations

import warnings

_warned: set[str] = set()


def warn_once(message: str, category: type[Warning] = UserWarning, *, stacklevel: int) -> None:
    """Warn with ``message``, unless this process was warned of the same before. Thread-safe.

    ``stacklevel`` counts from the caller, as in :func:`warnings.warn`. If a filter makes
    the warning an error, it is raised each time.
    """
    if message not in _warned:
        warnings.warn(message, category, stacklevel=stacklevel + 1)
        _warned.add(message)
