"""``MemoryStore``: a session that ends with the process."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from ..errors import StoreUnavailable
from ..system.forking import reset_in_child
from .contract import Hold, State, TokenStore, must_write

_SLICE = 0.02  # seconds


class MemoryStore(TokenStore):
    """Keeps the session in this process only. Thread-safe.

    >>> grant = ClientCredentialsGrant("https://auth.example.com/token", "report", "secret")
    >>> manager = TokenManager(grant, store=MemoryStore())

    For tests, for client credentials, and for programs that get a token when they start. The
    state is lost when the process ends, and with it a rotated refresh token. After a ``fork``,
    parent and child have a copy each, so the child never exchanges a rotating token (the manager
    raises ``StoreError``).
    """

    shared = False
    look_interval = math.inf

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
            # In slices, so that a waiter returns soon after the state has changed.
            left = deadline - time.monotonic()
            if self._exclusive.acquire(timeout=max(0.0, min(left, _SLICE))):
                hold = _MemoryHold(self._exclusive)
                if after is None or after.is_same(self._state):
                    return hold
                hold.release()
            elif left <= 0:
                raise StoreUnavailable(
                    f"another refresh has locked this MemoryStore for {timeout:g} s: "
                    "try again, or look for a refresh callable that hangs",
                    holder="this process",
                )
        return None

    def __repr__(self) -> str:
        return "MemoryStore()"

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "cannot pickle a MemoryStore, because the pickle would contain its tokens: give the "
            "manager an EncryptedFileStore, RedisStore or SQLStore, which is reopened"
        )


class _MemoryHold(Hold):
    def __init__(self, lock: threading.Lock) -> None:
        self._locks = [lock]  # only one of two threads can pop it

    def release(self) -> None:
        try:
            self._locks.pop().release()
        except IndexError:
            pass  # already released
