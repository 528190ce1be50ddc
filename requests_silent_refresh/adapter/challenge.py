"""What a 401 says about the token: the ``WWW-Authenticate`` header.

RFC 9110 section 11.6.1 gives the grammar, RFC 6750 section 3 the words of
``Bearer``. Servers get the grammar wrong in many ways, so the reading here is
lenient: what cannot be understood is passed over, and nothing raises.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from requests import Response

# Words, quoted strings (the last may lack its end) and the two separators. Every
# character is consumed once and no alternative can fail after a long match, so the
# time is linear in what a hostile server sends.
_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[,=]|[^\s,="]+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

# Another token of the same session would be rejected for the same reason: it lacks a
# scope (RFC 6750 section 3.1), or a stronger or fresher sign-in (RFC 9470 section 3).
_NOT_MENDED = frozenset({"insufficient_scope", "insufficient_user_authentication"})


@dataclasses.dataclass(frozen=True)
class Challenge:
    """One challenge: the scheme as it was sent, and its parameters with lower-case names.

    Of a parameter sent twice the first counts. A token68 after the scheme is passed over.
    """

    scheme: str
    parameters: dict[str, str]


def parse(header: str) -> list[Challenge]:
    """Return the challenges of a ``WWW-Authenticate`` value, in order. Never raises.

    Several header lines reach us joined by commas, as ``requests`` shows them.
    """
    return list(_challenges(_LEXEME.findall(header)))


def _challenges(lexemes: list[str]) -> Iterator[Challenge]:
    challenge: Challenge | None = None
    begun = False  # the lexeme before this one was the scheme: a token68 may follow
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
    """Say whether a 401 with this ``WWW-Authenticate`` means that the token was rejected.

    It does (a refresh may help) unless the challenges do not offer ``scheme`` at
    all, or say for it that the token lacks a scope or a stronger sign-in. A 401
    without a header, or with one in which there is no challenge, does; so does
    any with ``scheme=""``, for APIs that take the bare token in a header of their own.
    """
    challenges = parse(header or "")
    if not challenges or not scheme:
        return True
    errors = {
        c.parameters.get("error", "").lower()
        for c in challenges
        if c.scheme.lower() == scheme.lower()
    }
    return bool(errors) and ("invalid_token" in errors or not errors & _NOT_MENDED)


def is_rejected(response: Response, scheme: str = "Bearer") -> bool:
    """Say whether ``response`` rejects the token: a 401 for which :func:`rejects_token` is true.

    Does not read the body. A 403 is never one: an API that answers an expired
    token with a bare 403 needs an ``is_rejected`` of its own.
    """
    return response.status_code == 401 and rejects_token(
        response.headers.get("WWW-Authenticate"), scheme
    )
