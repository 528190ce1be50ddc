"""Warnings that are given once per process, however many objects run into the same danger."""

from __future__ import annotations

import warnings

_warned: set[str] = set()


def warn_once(message: str, category: type[Warning] = UserWarning, *, stacklevel: int) -> None:
    """Issue a warning unless this process has already had one with this message. Thread-safe.

    ``stacklevel`` counts from the caller, as in :func:`warnings.warn`. If a filter turns the
    warning into an error, it is raised each time.
    """
    if message not in _warned:
        warnings.warn(message, category, stacklevel=stacklevel + 1)
        _warned.add(message)
