"""``MemoryStore``: a session that ends with the process."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..errors import StoreUnavailable
from ..forking import reset_in_child
from .contract import Hold, State, StateMoved, TokenStore


class MemoryStore(TokenStore):
    """Keeps the session in this process only. Thread-safe.

    For tests, for client credentials, and for programs that are handed a token
    at start. Its state dies with the process, so a rotated refresh token does
    too; after a ``fork`` parent and child have two copies, which is why the
    child never exchanges a rotating token (the manager raises ``StoreError``).
    """

    shared = False

    def __init__(self) -> None:
        self._state: State | None = None
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._exclusive = threading.Lock()

    def load(self) -> State | None:
        return self._state

    def replace(self, new: State, after: State | None) -> None:
        with self._lock:
            if after is not None and not after.is_same(self._state):
                raise StateMoved(self._state)
            self._state = new

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        deadline = time.monotonic() + timeout
        while True:
            if after is not None and not after.is_same(self._state):
                return None
            # In slices, so that a waiter leaves as soon as the state has moved.
            left = deadline - time.monotonic()
            if self._exclusive.acquire(timeout=max(0.0, min(left, 0.05))):
                return _MemoryHold(self._exclusive)
            if left <= 0:
                raise StoreUnavailable(
                    f"another refresh has held this MemoryStore for {timeout:g} s: "
                    "try again, or look for a refresh callable that hangs",
                    holder="this process",
                )

    def __repr__(self) -> str:
        return "MemoryStore()"

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "a MemoryStore is not pickled, its tokens would go along: "
            "give the manager an EncryptedFileStore (or Redis, SQL), which is reopened"
        )


class _MemoryHold(Hold):
    def __init__(self, lock: threading.Lock) -> None:
        self._lock: threading.Lock | None = lock

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
