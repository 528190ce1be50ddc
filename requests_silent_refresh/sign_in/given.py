"""Tokens that come from somewhere else: pasted, piped, or exported by another tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..redaction import MaskedDict
from ..token import Token

SIZE_LIMIT = 1024 * 1024

_NAMES = {"accessToken": "access_token", "refreshToken": "refresh_token", "expiresIn": "expires_in"}

# Stands where an access token would: it is over before it is used, so it is never sent.
_NO_ACCESS_TOKEN = "none-yet"  # noqa: S105 (no secret)


def read_given(text: str) -> Token:
    """Make a token of what somebody gave: JSON, or a bare refresh token.

    JSON is a token endpoint's answer, a token dictionary of requests-oauthlib or
    Authlib, or a refresh token alone; names may be written ``accessToken``. What
    has no access token is returned expired, so that it is refreshed before its
    first use. Raises ``ValueError``, which holds nothing of ``text``.
    """
    text = text.strip()
    if not text:
        raise ValueError("there was nothing to import: give JSON, or a refresh token")
    if not text.startswith("{"):
        return _refresh_token_only(text, {})
    fields = _parse(text)
    if fields is None:
        raise ValueError("what was given starts like JSON but is none")
    if fields.get("access_token"):
        return Token.from_response(fields)
    if isinstance(fields.get("refresh_token"), str):
        return _refresh_token_only(fields["refresh_token"], fields)
    raise ValueError("what was given has neither an access_token nor a refresh_token")


def _refresh_token_only(refresh_token: str, fields: Mapping[str, Any]) -> Token:
    scope = fields.get("scope")
    return Token(
        _NO_ACCESS_TOKEN,
        refresh_token,
        expires_at=0.0,
        scope=scope if isinstance(scope, (str, list)) else (),
    )


def _parse(text: str) -> MaskedDict | None:
    """Read JSON; no frame or error that holds it is left for a traceback to show."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return MaskedDict((_NAMES.get(name, name), field) for name, field in value.items())
