"""What looks like a credential in text or data, and functions that mask it."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

_NAMES = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion"
    r"|password|passphrase|device_?code|code_?verifier|api[_-]?key"
)
_FIELD_NAMES = rf"{_NAMES}|assertion|token"
_HEADERS = r"(?:set-)?cookie|x-[a-z-]{0,40}(?:key|token|secret)"
_QUOTE = r"\\?[\"']"  # plain, or escaped inside another string
_PATTERNS = (
    # The Authorization header: as text, as a pair, in a dict's repr, as bytes.
    re.compile(
        rf"(?i)(authorization(?:{_QUOTE})?\s*[:=,]\s*b?(?:{_QUOTE})?(?:[a-z0-9-]+ +)?)"
        # Also matches the mask, or a second pass would mask the scheme.
        r"([a-z0-9._~+/=*-]+(?:\"[^\"]*\"(?:,\s*[a-z]+=\"[^\"]*\")*)?)"
    ),
    # Cookies, and headers for keys, likewise.
    re.compile(
        rf"(?i)(\b(?:{_HEADERS})(?:{_QUOTE})?\s*[:,]\s*b?(?:{_QUOTE})?)(?!\*)([^\"'\\\r\n]+)"
        r"(?<!\*)"
    ),
    # Credentials without a header name. This also masks "bearer authentication".
    re.compile(r"(?i)\b((?:bearer|dpop)\s+)([a-z0-9._~+/=-]{8,})"),
    # JSON and dict reprs. A "\\/" is part of the value.
    re.compile(
        rf"(?i)({_QUOTE}(?:{_FIELD_NAMES}|code){_QUOTE}\s*:\s*b?{_QUOTE})((?:[^\"'\\]|\\[^\"'])+)"
    ),
    # Forms, query strings, variables and keyword arguments. Short codes are kept: they are exit
    # codes or similar.
    re.compile(rf"(?i)((?:\b|_)(?:{_FIELD_NAMES})\s?=\s?b?(?:{_QUOTE})?)([^&\s\"'\\]+)"),
    re.compile(r"(?i)(\bcode=)([^&\s\"'\\]{8,})"),
    # The same, encoded once more. "%22" is a quotation mark.
    re.compile(rf"(?i)((?:{_FIELD_NAMES})(?:%22)?%3[ad](?:\+|%20)*(?:%22)?)([^&\s\"'\\%]+)"),
    # YAML. Sentences have blanks, and words that are shorter.
    re.compile(rf"(?i)(\b(?:{_NAMES}):[ \t]+)([^\s\"'\\]{{8,}})(?=\s*$|[\r\n])"),
    # The password in a URL.
    re.compile(r"(?i)(://[^/\s:@]{0,200}:)([^/\s@]{1,500})(?=@)"),
    # A JSON Web Token anywhere in the text: its header and its claims begin with '{"'.
    re.compile(r"()(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)
_CREDENTIAL = re.compile(rf"(?i)(?:.*[_-])?(?:{_FIELD_NAMES}|authorization)|{_HEADERS}")
_DEPTH = 8


def redact(text: str) -> str:
    """Return ``text`` with everything that looks like a credential masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def redact_data(value: Any, depth: int = _DEPTH) -> Any:
    """Return ``value`` with the text in it masked, also in bytes, lists, tuples and dictionaries.

    What a dictionary has under the name of a credential is masked whatever it looks like. Values
    of other types are returned as they are.
    """
    if isinstance(value, str):
        return redact(value)
    if type(value) is bytes:
        return redact(value.decode(errors="backslashreplace")).encode()
    if type(value) not in (dict, list, tuple):
        return value
    if depth == 0:
        return MASK
    if type(value) is dict:
        return {
            name: MASK
            if isinstance(name, str)
            and isinstance(one, (str, bytes))
            and _CREDENTIAL.fullmatch(name)
            else redact_data(one, depth - 1)
            for name, one in value.items()
        }
    return type(value)(redact_data(one, depth - 1) for one in value)


def _names_secret(name: object, value: object) -> bool:
    has_text = isinstance(name, str) and isinstance(value, (str, bytes))
    return has_text and _CREDENTIAL.fullmatch(str(name)) is not None
