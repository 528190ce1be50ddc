"""The demo's threads: each has its own session."""

from __future__ import annotations

import threading
from collections.abc import Callable

import requests

_PAUSE = 0.05  # seconds between two requests of a thread


class Crowd:
    """Threads that send GET requests until they are stopped, as a scraper's do.

    Each calls ``session()`` for its own session.

    Each thread writes only its own element of ``finished`` and ``failed``, so
    no lock is needed.
    """

    def __init__(self, count: int, session: Callable[[], requests.Session], url: str) -> None:
        self.finished = [0] * count
        """Requests that have ended, successful or not, by thread."""
        self.failed = [0] * count
        """Those of them that raised or got an error status."""
        self.first_error: str | None = None
        self.session = session
        self._url = url
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"demo-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start all threads. Raises ``RuntimeError`` if the machine cannot start another one."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each thread stop after its current request."""
        self._over.set()

    def stop(self) -> None:
        """Stop the threads, and block until each has finished its current request."""
        self.end()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, number: int) -> None:
        with self.session() as session:
            while not self._over.is_set():
                try:
                    session.get(f"{self._url}/{number}", timeout=60).raise_for_status()
                except Exception as error:  # noqa: BLE001 (the demo counts every failure)
                    self.failed[number] += 1
                    self.first_error = self.first_error or f"{type(error).__name__}: {error}"
                self.finished[number] += 1
                self._over.wait(_PAUSE)
