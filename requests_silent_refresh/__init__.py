"""A ``requests`` transport adapter that refreshes OAuth tokens, so that no caller sees one expire.

The names below are loaded on first use, so ``import requests_silent_refresh`` is cheap and
loads no backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter.adapter import SilentRefreshAdapter as SilentRefreshAdapter
    from .adapter.adapter import without_token as without_token
    from .adapter.rejected_by import RejectedBy as RejectedBy
    from .errors import InsecureTransport as InsecureTransport
    from .errors import RefreshFailed as RefreshFailed
    from .errors import RefreshTimeout as RefreshTimeout
    from .errors import RefreshUnavailable as RefreshUnavailable
    from .errors import SessionExpired as SessionExpired
    from .errors import SilentRefreshError as SilentRefreshError
    from .errors import StoreCorrupted as StoreCorrupted
    from .errors import StoreError as StoreError
    from .errors import StoreUnavailable as StoreUnavailable
    from .errors import WrongIdentity as WrongIdentity
    from .errors import WrongKey as WrongKey
    from .grants.json_login import JSONLogin as JSONLogin
    from .grants.json_refresh import JSONRefresh as JSONRefresh
    from .grants.oauth import ClientCredentialsGrant as ClientCredentialsGrant
    from .grants.oauth import RefreshTokenGrant as RefreshTokenGrant
    from .manager.accounts import Accounts as Accounts
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

_NAMES = {
    "adapter.adapter": ["SilentRefreshAdapter", "without_token"],
    "adapter.rejected_by": ["RejectedBy"],
    "errors": [
        *("InsecureTransport", "RefreshFailed", "RefreshTimeout", "RefreshUnavailable"),
        *("SessionExpired", "SilentRefreshError"),
        *("StoreCorrupted", "StoreError", "StoreUnavailable", "WrongIdentity", "WrongKey"),
    ],
    "grants.json_login": ["JSONLogin"],
    "grants.json_refresh": ["JSONRefresh"],
    "grants.oauth": ["ClientCredentialsGrant", "RefreshTokenGrant"],
    "manager.accounts": ["Accounts"],
    "manager.manager": ["TokenManager"],
    "origin": ["Origin"],
    "redaction": ["Secret"],
    "stores.contract": ["TokenStore"],
    "stores.file": ["EncryptedFileStore"],
    "stores.memory": ["MemoryStore"],
    "stores.moving": ["copy_state"],
    "stores.redis": ["RedisStore"],
    "stores.sql": ["SQLStore"],
    "token": ["Token"],
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605 (it is a list of str, but ruff cannot tell)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
