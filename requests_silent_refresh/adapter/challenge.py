"""Reads a 401's ``WWW-Authenticate`` header.

The grammar is in RFC 9110 section 11.6.1, the error codes of ``Bearer`` in RFC 6750
section 3. Many servers break the grammar, so the parser is lenient: it skips what it
cannot read, and never raises.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

# Words, quoted strings (the last may be unterminated) and the two separators. Every
# character is consumed once and no alternative can fail after a long match, so the
# time is linear in the length of a hostile header.
_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[,=]|[^\s,="]+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

# With these errors a refreshed token would be rejected too: the session lacks a scope
# (RFC 6750 section 3.1), a stronger or more recent sign-in (RFC 9470 section 3), claims (as
# Microsoft's APIs ask for them), or the request lacks a nonce (RFC 9449 section 9).
_NO_REFRESH_HELPS = frozenset(
    {
        "insufficient_scope",
        "insufficient_user_authentication",
        "insufficient_claims",
        "use_dpop_nonce",
    }
)


@dataclasses.dataclass(frozen=True)
class Challenge:
    """One challenge: the scheme as sent, and its parameters with lower-case names.

    The first value of a repeated parameter is kept. A token68 after the scheme is skipped.
    """

    scheme: str
    parameters: dict[str, str]


def parse(header: str) -> list[Challenge]:
    """Return the challenges of a ``WWW-Authenticate`` value, in order. Never raises.

    ``requests`` joins repeated header lines with commas, so one value holds them all.
    """
    return list(_challenges(_LEXEME.findall(header)))


def _challenges(lexemes: list[str]) -> Iterator[Challenge]:
    challenge: Challenge | None = None
    begun = False  # whether the previous lexeme was a scheme, which a token68 may follow
    lexemes = [*lexemes, ",", ","]
    at = 0
    while at < len(lexemes) - 2:
        word, sign, value = lexemes[at : at + 3]
        at += 1
        if word[0] in ',="':
            begun = False
        elif sign == "=" and value not in ("=", ","):
            at += 2
            begun = False
            if challenge is not None:
                challenge.parameters.setdefault(word.lower(), _unquoted(value))
        elif begun:
            begun = False
            while lexemes[at] == "=":  # the padding of a token68
                at += 1
        else:
            if challenge is not None:
                yield challenge
            challenge, begun = Challenge(word, {}), True
    if challenge is not None:
        yield challenge


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    end = len(value) - 1 if len(value) > 1 and value.endswith('"') else len(value)
    return _ESCAPE.sub(r"\1", value[1:end])


def rejects_token(header: str | None, scheme: str = "Bearer") -> bool:
    """Return whether a 401 with this ``WWW-Authenticate`` value rejects the token.

    Returns False only if the challenges for ``scheme`` say that a refresh would not help.
    Those for other schemes say nothing about the token: servers answer an expired bearer
    token with ``Basic``, ``OAuth``, ``JWT`` or no challenge at all.
    """
    errors = {
        c.parameters.get("error", "").lower()
        for c in parse(header or "")
        if c.scheme.lower() == scheme.lower()
    }
    return "invalid_token" in errors or not errors & _NO_REFRESH_HELPS
