"""What looks like a credential in text, and ``redact``, which masks it."""

from __future__ import annotations

import re

MASK = "***"

_FIELD_NAMES = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion|assertion"
    r"|password|passphrase|device_?code|code_?verifier|token"
)
_QUOTE = r"\\?[\"']"  # plain, or escaped inside another string
_PATTERNS = (
    # The Authorization header: as text, as a pair, in a dict's repr, as bytes.
    re.compile(
        rf"(?i)(authorization(?:{_QUOTE})?\s*[:=,]\s*b?(?:{_QUOTE})?(?:[a-z0-9-]+ +)?)"
        r"([a-z0-9._~+/=*-]+)"  # also matches the mask, or a second pass would mask the scheme
    ),
    # Credentials without a header name. This also masks "bearer authentication".
    re.compile(r"(?i)\b((?:bearer|dpop)\s+)([a-z0-9._~+/=-]{8,})"),
    # JSON and dict reprs. A "\\/" is part of the value.
    re.compile(
        rf"(?i)({_QUOTE}(?:{_FIELD_NAMES}|code){_QUOTE}\s*:\s*b?{_QUOTE})((?:[^\"'\\]|\\[^\"'])+)"
    ),
    # Forms and query strings. Short codes are kept: they are exit codes or similar.
    re.compile(rf"(?i)(\b(?:{_FIELD_NAMES})=)([^&\s\"'\\]+)"),
    re.compile(r"(?i)(\bcode=)([^&\s\"'\\]{8,})"),
    # A JSON Web Token anywhere in the text: its header and its claims begin with '{"'.
    re.compile(r"()(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)


def redact(text: str) -> str:
    """Return ``text`` with everything that looks like a credential masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text
