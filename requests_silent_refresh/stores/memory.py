"""``MemoryStore``: a session that ends with the process."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..errors import StoreUnavailable
from ..system.forking import reset_in_child
from .contract import Hold, State, TokenStore, must_write

_SLICE = 0.02  # seconds


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
            if must_write(new, after, self._state):
                self._state = new

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        deadline = time.monotonic() + timeout
        while after is None or after.is_same(self._state):
            # In slices, so that a waiter leaves as soon as the state has moved.
            left = deadline - time.monotonic()
            if self._exclusive.acquire(timeout=max(0.0, min(left, _SLICE))):
                hold = _MemoryHold(self._exclusive)
                if after is None or after.is_same(self._state):
                    return hold
                hold.release()
            elif left <= 0:
                raise StoreUnavailable(
                    f"another refresh has held this MemoryStore for {timeout:g} s: "
                    "try again, or look for a refresh callable that hangs",
                    holder="this process",
                )
        return None

    def __repr__(self) -> str:
        return "MemoryStore()"

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "a MemoryStore is not pickled, its tokens would go along: "
            "give the manager an EncryptedFileStore (or Redis, SQL), which is reopened"
        )


class _MemoryHold(Hold):
    def __init__(self, lock: threading.Lock) -> None:
        self._locks = [lock]  # a list, whose pop two threads cannot both win

    def release(self) -> None:
        try:
            self._locks.pop().release()
        except IndexError:
            pass  # released before
