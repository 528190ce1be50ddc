"""Tokens that come from somewhere else: pasted, piped, or exported by another tool."""

from __future__ import annotations

import json
from typing import Any

from ..redaction import MaskedDict
from ..token import Token

SIZE_LIMIT = 1024 * 1024

_NAMES = {"accessToken": "access_token", "refreshToken": "refresh_token", "expiresIn": "expires_in"}


def read_given(text: str) -> Token:
    """Make a token of what somebody gave: JSON, or a bare refresh token.

    JSON is whatever :meth:`~requests_silent_refresh.Token.from_response` takes;
    names may be written ``accessToken``. Raises ``ValueError``, which holds
    nothing of ``text``.
    """
    text = text.strip()
    if not text:
        raise ValueError("there was nothing to import: give JSON, or a refresh token")
    if not text.startswith(("{", "[", '"')):
        return Token.from_response(MaskedDict(refresh_token=text))
    fields = _parse(text)
    if fields is None:
        raise ValueError("what was given starts like JSON but is no JSON object")
    return Token.from_response(fields)


def _parse(text: str) -> MaskedDict | None:
    """Read JSON; no frame or error that holds it is left for a traceback to show."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = value
    return MaskedDict({_NAMES.get(name, name): field for name, field in fields.items()})
