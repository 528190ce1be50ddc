"""The demo's threads: a session each, one manager, requests until told to stop."""

from __future__ import annotations

import threading

import requests

from ...adapter.adapter import SilentRefreshAdapter
from ...manager.manager import TokenManager

_PAUSE = 0.05  # seconds a thread rests between two requests


class Crowd:
    """Threads that do what a scraper's do: get, get, get.

    Each thread writes only its own place in ``finished`` and ``failed``, so
    nothing here needs a lock.
    """

    def __init__(self, count: int, manager: TokenManager, origin: str, url: str) -> None:
        self.finished = [0] * count
        """Requests that have ended, by thread; well or not."""
        self.failed = [0] * count
        """Those among them that raised, or were answered with an error."""
        self.first_error: str | None = None
        self._manager = manager
        self._origin = origin
        self._url = url
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"demo-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start all threads. Raises ``RuntimeError`` where this machine allows no more."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread end its request, and wait for that."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def session(self) -> requests.Session:
        """Return a session as a user makes one: two lines more than without refresh."""
        session = requests.Session()
        session.trust_env = False  # the demo's server is on this machine, behind no proxy
        SilentRefreshAdapter(self._manager, self._origin).mount_on(session)
        return session

    def _work(self, number: int) -> None:
        with self.session() as session:
            while not self._over.is_set():
                try:
                    session.get(f"{self._url}/{number}", timeout=60).raise_for_status()
                except Exception as error:  # noqa: BLE001 (whatever it is: the demo counts it)
                    self.failed[number] += 1
                    self.first_error = self.first_error or f"{type(error).__name__}: {error}"
                self.finished[number] += 1
                self._over.wait(_PAUSE)
