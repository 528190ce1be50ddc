"""``Token``: an immutable token response (RFC 6749 section 5.1)."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from . import arguments
from .redaction import Confidential, MaskedDict, Secret

# Wider than b64token of RFC 6750 section 2.1, because servers do not keep to it: anything
# that is safe in a header is accepted.
_TOKEN = re.compile(r"[\x21-\x7e]+")

# Expiries are capped here: a later one makes no difference and only breaks arithmetic.
MAX_LIFETIME = 10 * 365 * 86400.0

# Names in google-auth's authorized-user JSON, and the token endpoint's names for them.
_KEPT_NAMES = {"token": "access_token", "expiry": "expires_at", "scopes": "scope"}

# A placeholder for a missing access token. It is already expired, so it is never sent.
_NO_ACCESS_TOKEN = "none-yet"  # noqa: S105 (not a secret)

_KNOWN = frozenset(
    {"access_token", "refresh_token", "token_type", "expires_in", "expires_at", "scope"}
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class Token(Confidential):
    """An access token, the refresh token that renews it, and its expiry.

    >>> token = Token("access", "refresh", expires_at=1800000000, scope="read write")
    >>> token.scope, token.access_token
    (('read', 'write'), ***)
    >>> token.access_token.reveal()
    'access'

    Immutable and thread-safe. Tokens are compared by identity. The constructor takes
    tokens as ``str`` and keeps them as :class:`~requests_silent_refresh.redaction.Secret`.

    ``expires_at``, ``issued_at``
        Unix time in seconds by this machine's clock, or ``None`` if unknown. A token
        without a known expiry is used until it is rejected.
    ``refresh_token``
        ``None`` for grants that need none (client credentials).
    ``scope``
        The granted scopes as a tuple. The constructor also takes RFC 6749's
        space-separated string.
    ``extra``
        All other fields of the response (an ``id_token``, a tenant). They are stored
        with the token and masked in its repr, because they may hold secrets.

    Raises ``ValueError`` if a token is empty or not safe in a header, or if a time is
    not a finite number, and ``TypeError`` for another argument of a wrong kind.
    """

    access_token: Secret
    refresh_token: Secret | None
    expires_at: float | None
    issued_at: float | None
    token_type: str
    scope: tuple[str, ...]
    extra: Mapping[str, Any]

    def __init__(
        self,
        access_token: str | Secret,
        refresh_token: str | Secret | None = None,
        expires_at: float | None = None,
        issued_at: float | None = None,
        token_type: str = "Bearer",  # noqa: S107 (a type, not a secret)
        scope: str | Iterable[str] = (),
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        access_token, refresh_token = _hidden(access_token), _hidden(refresh_token)
        extra = MaskedDict(extra) if isinstance(extra, Mapping) else arguments.kind_of(extra)
        if not isinstance(extra, MaskedDict):
            raise TypeError(f"extra must be a mapping, not {extra}")
        put = object.__setattr__
        put(self, "access_token", _checked("access_token", access_token))
        if refresh_token is not None:
            _checked("refresh_token", refresh_token)
        put(self, "refresh_token", refresh_token)
        put(self, "expires_at", _unix_time("expires_at", expires_at))
        put(self, "issued_at", _unix_time("issued_at", issued_at))
        # A refresh callable may pass on an answer without these: its token must not be lost.
        token_type, scope = token_type or "Bearer", () if scope is None else scope
        arguments.instances(str, "a str", token_type=token_type)
        put(self, "token_type", token_type)
        put(self, "scope", arguments.words("scope", scope))
        put(self, "extra", MappingProxyType(extra))

    def __repr__(self) -> str:
        if not hasattr(self, "extra"):  # in the traceback of a constructor that raised
            return "Token(incomplete)"
        refresh = "None" if self.refresh_token is None else "***"
        return (
            f"Token(access_token=***, refresh_token={refresh}, expires_at={self.expires_at}, "
            f"scope={self.scope!r}, fingerprint={self.access_token.fingerprint})"
        )

    def twin(self, **changes: Any) -> Token:
        """Return another object with the same content, or with some of it changed."""
        # Not dataclasses.replace: a user's subclass may be constructed in another way.
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), **changes)
        return twin

    @classmethod
    def from_response(
        cls,
        payload: Mapping[str, Any],
        received_at: float | None = None,
        previous: Token | None = None,
    ) -> Token:
        """Create a token from a token endpoint's response (RFC 6749 section 5.1).

        ``received_at`` is the Unix time at which the response arrived. The lifetime is
        counted from it, so the server's clock does not matter. ``None`` means that
        another program saved the payload: a token dictionary of requests-oauthlib or
        Authlib, google-auth's authorized-user JSON, or just a ``refresh_token``. Then
        ``expires_at`` takes precedence over ``expires_in``, because it is not known when
        that began to count. Without an access token, the token counts as expired, so it
        is exchanged before its first use and its placeholder is never sent.

        ``previous`` is the token that was exchanged. Its ``refresh_token`` and ``scope``
        are kept if the response has none (section 6).

        Of the response to an exchange nothing is lost, because the old refresh token may be
        spent: a number is read as the token's text, and any other field that cannot be used,
        even the refresh token, is ignored. Raises ``ValueError`` if there is no usable access
        token, or, without ``previous``, if the refresh token is not usable as it is.
        """
        payload = MaskedDict(payload) if received_at is not None else _as_answer(payload)
        if "access_token" not in payload:
            nor = "" if received_at is not None else " and no refresh_token"
            raise ValueError(f"the response has no access_token{nor}")
        now = time.time() if received_at is None else received_at
        absolute = parse_time(payload.get("expires_at")) if received_at is None else None
        lifetime = None if absolute is not None else _lifetime(payload, now)
        expires_at = absolute if lifetime is None else now + lifetime
        scope = _scope(payload.get("scope"))
        if not scope and previous is not None:
            scope = previous.scope
        token_type = payload.get("token_type")
        return cls(
            _as_text(payload["access_token"], previous),
            _refresh_token_of(payload, previous),
            expires_at=expires_at,
            issued_at=now if received_at is not None or lifetime is not None else None,
            token_type=token_type if token_type and isinstance(token_type, str) else "Bearer",
            scope=scope,
            extra={k: v for k, v in payload.items() if k not in _KNOWN},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the token in plain text, secrets included, for a store to encrypt."""
        return {
            "access_token": self.access_token.reveal(),
            "refresh_token": None if self.refresh_token is None else self.refresh_token.reveal(),
            "expires_at": self.expires_at,
            "issued_at": self.issued_at,
            "token_type": self.token_type,
            "scope": list(self.scope),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Token:
        """Undo :meth:`to_dict`. Raises ``ValueError`` or ``TypeError`` for anything else."""
        fields = MaskedDict(fields)
        return cls(**fields)


def _as_answer(kept: Mapping[str, Any]) -> MaskedDict:
    """Rename the fields of a saved token to those of a token endpoint's response."""
    answer = MaskedDict(kept)
    for theirs, name in _KEPT_NAMES.items():
        if theirs in answer and not answer.get(name):
            answer[name] = answer.pop(theirs)
    answer.pop("client_secret", None)  # it belongs to the grant and is not stored
    if not answer.get("access_token") and answer.get("refresh_token"):
        answer["access_token"] = _NO_ACCESS_TOKEN
        answer["expires_at"] = 0
    return answer


def _as_text(value: object, previous: Token | None) -> Any:
    """Return a token as text: servers send numbers, and text with a line break at its end."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and previous is not None:
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _refresh_token_of(payload: Mapping[str, Any], previous: Token | None) -> Any:
    """Return the refresh token of a response; never raises.

    After an exchange, that of ``previous`` if there is none or it is unusable: the access
    token beside it is good.
    """
    value = _as_text(payload.get("refresh_token") or None, previous)
    usable = isinstance(value, str) and _TOKEN.fullmatch(value)
    return value if usable or previous is None else previous.refresh_token


def _hidden(value: object) -> Any:
    """Wrap a string in a ``Secret``, which no repr shows; replace other values by their type."""
    if value is None or isinstance(value, Secret):
        return value
    return Secret(value) if isinstance(value, str) else type(value)


def _checked(name: str, hidden: Any) -> Secret:
    if not isinstance(hidden, Secret):
        # Not a TypeError, because it may be the server's response that is wrong.
        raise ValueError(f"{name} must be a str, not {getattr(hidden, '__name__', None)}")  # noqa: TRY004
    if not _TOKEN.fullmatch(hidden.reveal()):
        raise ValueError(
            f"{name} must be printable ASCII without spaces or line breaks, and not empty: "
            "if it was read from a file, remove the newline with value.strip()"
        )
    return hidden


def _scope(value: object) -> tuple[str, ...]:
    """Read a scope as servers send it: RFC 6749's string or a list; empty for anything else."""
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, (list, tuple)):
        return tuple(scope for scope in value if isinstance(scope, str))
    return ()


def _unix_time(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    number = _number(value) if not isinstance(value, str) else None
    if number is None:
        raise ValueError(f"{name} must be a Unix time in seconds (a finite number) or None")
    return number


def _number(value: object) -> float | None:
    """Read a number as servers send it: 3600, 3600.0 or "3600"; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("1e15") else None


def _lifetime(payload: Mapping[str, Any], now: float) -> float | None:
    """Return the token's lifetime in seconds from receipt; None if the response has none."""
    raw = payload.get("expires_in")
    seconds = _number(raw)
    if seconds is None and isinstance(raw, str):
        moment = parse_time(raw)  # some JSON APIs put a date here
        seconds = None if moment is None else moment - now
    if seconds is None:
        seconds = _jwt_lifetime(payload["access_token"])
    if seconds is None:
        return None
    # A negative lifetime means already expired: the token is refreshed at its next use.
    return min(max(seconds, 0.0), MAX_LIFETIME)


def _jwt_lifetime(access_token: object) -> float | None:
    """Return ``exp - iat`` of a JWT in seconds; None if it has no usable claims."""
    claims = jwt_claims(access_token)
    exp, iat = _number(claims.get("exp")), _number(claims.get("iat"))
    # A hint that the token has already expired would only cause an exchange at every use.
    return None if exp is None or iat is None or exp <= iat else exp - iat


def jwt_claims(text: object) -> dict[str, Any]:
    """Return the claims of a JWT; empty if ``text`` is not one.

    They are not verified: use them as a hint or for display, never for a decision.
    """
    if not isinstance(text, str) or text.count(".") != 2:
        return {}
    body = text.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def parse_time(value: object) -> float | None:
    """Read a time as APIs write it: Unix seconds, Unix milliseconds, or ISO 8601.

    Returns Unix time in seconds, or ``None`` if ``value`` is not a time. ISO 8601 without
    an offset is read as UTC.
    """
    number = _number(value)
    if number is not None:
        # As seconds this is after the year 5138; as milliseconds it is after March 1973.
        return number / 1000 if number > 1e11 else number
    if not isinstance(value, str):
        return None
    text = value.strip()
    # Before Python 3.11 fromisoformat reads no "Z", and only fractions of 3 or 6 digits.
    text = re.sub(r"[zZ]$", "+00:00", text)
    text = re.sub(r"\.(\d+)", lambda m: "." + m[1][:6].ljust(6, "0"), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()
