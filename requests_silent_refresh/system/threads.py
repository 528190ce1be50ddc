"""Starting the package's own threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .signals import uninterrupted


def start_daemon(name: str, target: Callable[[], object]) -> bool:
    """Start a daemon thread; return ``False`` if none can be started.

    None can while the interpreter exits, or at the system's limit. Signal handlers are put off
    meanwhile: of what one raises as the new thread begins to run, ``Thread.start`` makes a
    ``KeyError``.
    """

    def start() -> bool:
        try:
            threading.Thread(target=target, name=name, daemon=True).start()
        except RuntimeError:
            return False
        return True

    return uninterrupted(start)
