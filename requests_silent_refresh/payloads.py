"""Finds the object in the text of an answer or of a file: JSON or a form, under any label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

_ACCESS_TOKEN = re.compile(r"(?i)access[_-]?token\Z")
# A JSON Web Token (RFC 7519): its header is an object in base64.
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)


def parse(texts: Iterable[str], *, is_form: bool = False) -> dict[str, Any] | None:
    """Return the object in the first of ``texts`` that has one; ``None`` if none has.

    ``texts`` are readings of the same bytes. An object is JSON, or a form that is labelled as
    one (``is_form``) or has an access token. JSON may be written as a string, be the only member
    of a list, or stand between other text (a callback's name, a warning of PHP). A JSON Web
    Token alone counts as an access token. Never raises.
    """
    texts = list(texts)
    for text in texts:
        # Not strict: a line break inside one field does not void the others.
        is_json, value = _json(text)
        if is_json:
            return _object(value)
    for text in texts:
        form = None if text.lstrip().startswith(("{", "[", "<")) else _form(text, is_form)
        found = form or _jwt(text.strip()) or _inside(text)
        if found:
            return found
    return None


def _json(text: str) -> tuple[bool, Any]:
    try:
        return True, json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False, None


def _object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        is_json, inner = _json(value)
        return inner if is_json and isinstance(inner, dict) else _jwt(value)
    return value if isinstance(value, dict) else None


def _jwt(text: str) -> dict[str, Any] | None:
    return {"access_token": text} if _JWT.fullmatch(text) else None


def _form(text: str, is_form: bool) -> dict[str, Any] | None:
    try:
        form = dict(parse_qsl(text.strip(), max_num_fields=100))
    except ValueError:
        return None
    return form if is_form or any(map(_ACCESS_TOKEN.match, form)) else None


def _inside(text: str) -> dict[str, Any] | None:
    """Return the object between the first and the last brace, if it has an access token.

    Without one, it may be any script's configuration in a page of HTML.
    """
    start, end = text.find("{"), text.rfind("}") + 1
    _, value = _json(text[start:end]) if 0 <= start < end else (False, None)
    return value if isinstance(value, dict) and any(map(_ACCESS_TOKEN.match, value)) else None
