"""``Accounts``: the managers of many accounts, each made when it is first needed."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .. import arguments
from ..system.forking import reset_in_child
from .manager import TokenManager


class Accounts:
    """One :class:`TokenManager` for each account, for programs that act for many customers.

        >>> def make(name):
        ...     grant = RefreshTokenGrant("https://auth.example.com/oauth2/token", "back-end")
        ...     return TokenManager(grant, store=MemoryStore())
        >>> accounts = Accounts(make)
        >>> accounts["tenant-42"] is accounts["tenant-42"]
        True

    ``make``
        ``make(name) -> TokenManager``: called once for each name, in the thread that asks
        first; other threads that ask for the same name wait for it, and other names do not.
        Its store must keep a session for each name, for example
        ``SQLStore(engine, name, key)``. What it raises is raised to each thread that asked.
    ``limit``
        How many managers to keep. Beyond it the least recently used are forgotten, and made
        again when they are needed; their sessions stay in the stores. A manager is never
        forgotten while it refreshes, while requests wait for it, or while it holds a token
        that could not be saved. While a manager is in use elsewhere, ``accounts[name]`` is
        that same object, forgotten or not.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument. Thread-safe; a forked child
    goes on with the managers of its parent. Can be pickled if ``make`` can.
    """

    def __init__(self, make: Callable[[str], TokenManager], limit: int = 1000) -> None:
        arguments.functions(make=make)
        arguments.instances(int, "an int", limit=limit)
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._make = make
        self._limit = limit
        self._kept: OrderedDict[str, TokenManager] = OrderedDict()
        self._in_use: weakref.WeakValueDictionary[str, TokenManager] = weakref.WeakValueDictionary()
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Replace the locks, which threads of the parent may hold."""
        self._lock = threading.RLock()
        self._making: dict[str, Any] = {}

    def __getitem__(self, name: str) -> TokenManager:
        """Return the manager of ``name``, made now if needed; blocks while ``make`` runs.

        Raises what ``make`` raises, and ``TypeError`` for a name that is not a ``str`` or if
        ``make`` returns something else than a manager.
        """
        with self._lock:
            manager = self._in_use.get(name)
            if manager is not None:
                return self._keep(name, manager)
            # Reentrant, so that a `make` that asks for its own name recurses, and fails.
            making = self._making.setdefault(name, threading.RLock())
        with making:
            manager = self._in_use.get(name)
            try:
                if manager is None:
                    arguments.instances(str, "a str", name=name)
                    manager = self._make(name)
                    arguments.able(("usable_token", "renew"), "a TokenManager", make=manager)
            finally:
                with self._lock:
                    self._making.pop(name, None)
            with self._lock:
                # Another one only if an earlier `make` failed: then two threads may have made one.
                return self._keep(name, self._in_use.setdefault(name, manager))

    def __len__(self) -> int:
        """Return how many managers are kept."""
        return len(self._kept)

    def _keep(self, name: str, manager: TokenManager) -> TokenManager:
        """Note a use; must be called with the lock held."""
        self._kept[name] = manager
        self._kept.move_to_end(name)
        if len(self._kept) > self._limit:
            older = [n for n, m in self._kept.items() if m is not manager and m.is_idle]
            for forgotten in older[: len(self._kept) - self._limit]:
                del self._kept[forgotten]
        return manager

    def __repr__(self) -> str:
        return f"<Accounts: {len(self)} of at most {self._limit}>"

    def __reduce__(self) -> Any:
        return Accounts, (self._make, self._limit)
