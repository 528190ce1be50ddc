"""A ``requests`` transport adapter after which no caller sees a token expire.

The names below are loaded when they are first used, so that ``import
requests_silent_refresh`` costs next to nothing and loads no backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter.adapter import SilentRefreshAdapter as SilentRefreshAdapter
    from .adapter.adapter import without_token as without_token
    from .errors import InsecureTransport as InsecureTransport
    from .errors import RefreshFailed as RefreshFailed
    from .errors import RefreshTimeout as RefreshTimeout
    from .errors import RefreshUnavailable as RefreshUnavailable
    from .errors import SessionExpired as SessionExpired
    from .errors import SilentRefreshError as SilentRefreshError
    from .errors import StoreCorrupted as StoreCorrupted
    from .errors import StoreError as StoreError
    from .errors import StoreUnavailable as StoreUnavailable
    from .errors import WrongKey as WrongKey
    from .grants.json_refresh import JSONRefresh as JSONRefresh
    from .grants.oauth import ClientCredentialsGrant as ClientCredentialsGrant
    from .grants.oauth import RefreshTokenGrant as RefreshTokenGrant
    from .manager.manager import TokenManager as TokenManager
    from .origin import Origin as Origin
    from .redaction import Secret as Secret
    from .stores.contract import TokenStore as TokenStore
    from .stores.file import EncryptedFileStore as EncryptedFileStore
    from .stores.memory import MemoryStore as MemoryStore
    from .stores.moving import copy_state as copy_state
    from .stores.redis import RedisStore as RedisStore
    from .stores.sql import SQLStore as SQLStore
    from .token import Token as Token

_WHERE = {
    "SilentRefreshAdapter": "adapter.adapter",
    "without_token": "adapter.adapter",
    "InsecureTransport": "errors",
    "RefreshFailed": "errors",
    "RefreshTimeout": "errors",
    "RefreshUnavailable": "errors",
    "SessionExpired": "errors",
    "SilentRefreshError": "errors",
    "StoreCorrupted": "errors",
    "StoreError": "errors",
    "StoreUnavailable": "errors",
    "WrongKey": "errors",
    "ClientCredentialsGrant": "grants.oauth",
    "JSONRefresh": "grants.json_refresh",
    "RefreshTokenGrant": "grants.oauth",
    "TokenManager": "manager.manager",
    "Origin": "origin",
    "Secret": "redaction",
    "TokenStore": "stores.contract",
    "EncryptedFileStore": "stores.file",
    "MemoryStore": "stores.memory",
    "copy_state": "stores.moving",
    "RedisStore": "stores.redis",
    "SQLStore": "stores.sql",
    "Token": "token",
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
