"""Tokens obtained elsewhere: pasted, piped, or exported by another tool."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .. import payloads
from ..redaction import MaskedDict
from ..token import Token

SIZE_LIMIT = 1024 * 1024

_FORM = re.compile(r"(?i)(?:^|&)(?:access|refresh)_?token=")


def read_given(text: str, read: Callable[[Any], Token] = Token.from_response) -> Token:
    """Return the token in ``text``, which is JSON, a form, or only a refresh token.

    JSON may be the answer of a server or the token file of another tool; ``read`` reads its
    object. Raises ``ValueError``, whose message contains nothing of ``text``.
    """
    text = text.strip()
    if not text:
        raise ValueError("there was nothing to import: give JSON, or a refresh token")
    is_form = _FORM.search(text) is not None
    if not is_form and not text.startswith(("{", "[", '"')):
        return read(MaskedDict(refresh_token=text))
    fields = payloads.parse([text], is_form=is_form)
    if fields is None:
        raise ValueError("the input starts like JSON but is not a JSON object")
    return read(MaskedDict(fields))
