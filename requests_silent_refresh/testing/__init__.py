"""For tests and demos: a real authorization server on loopback, and the test suite for stores.

Each name is loaded when it is first used. Only :class:`StoreContract` needs pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Answer as Answer
    from .answers import Request as Request
    from .events import Counters as Counters
    from .events import Event as Event
    from .events import EventLog as EventLog
    from .gates import Gate as Gate
    from .gates import TokenGate as TokenGate
    from .server import AuthorizationServer as AuthorizationServer
    from .store_contract import StoreContract as StoreContract

_WHERE = {
    "Answer": "answers",
    "AuthorizationServer": "server",
    "Counters": "events",
    "Event": "events",
    "EventLog": "events",
    "Gate": "gates",
    "Request": "answers",
    "StoreContract": "store_contract",
    "TokenGate": "gates",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 (a list of str; ruff wants it spelled out)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
