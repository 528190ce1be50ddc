"""Tokens obtained elsewhere: pasted, piped, or exported by another tool."""

from __future__ import annotations

import json
from typing import Any

from ..redaction import MaskedDict
from ..token import Token

SIZE_LIMIT = 1024 * 1024

_NAMES = {"accessToken": "access_token", "refreshToken": "refresh_token", "expiresIn": "expires_in"}


def read_given(text: str) -> Token:
    """Return the token in ``text``, which is JSON or only a refresh token.

    The JSON may be anything that :meth:`~requests_silent_refresh.Token.from_response` accepts,
    and names may be written like ``accessToken``. Raises ``ValueError``, whose message contains
    nothing of ``text``.
    """
    text = text.strip()
    if not text:
        raise ValueError("there was nothing to import: give JSON, or a refresh token")
    if not text.startswith(("{", "[", '"')):
        return Token.from_response(MaskedDict(refresh_token=text))
    fields = _parse(text)
    if fields is None:
        raise ValueError("the input starts like JSON but is not a JSON object")
    return Token.from_response(fields)


def _parse(text: str) -> MaskedDict | None:
    """Parse JSON, without leaving a frame or an error from which a traceback would show it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = value
    return MaskedDict({_NAMES.get(name, name): field for name, field in fields.items()})
