"""``Token``: what a token endpoint grants (RFC 6749 section 5.1), frozen."""

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

from .redaction import MaskedDict, Secret

# b64token of RFC 6750 section 2.1 is narrower, but servers issue what they like:
# anything that can stand in a header without breaking out of it is taken.
_TOKEN = re.compile(r"[\x21-\x7e]+")

# An expiry further away than this is as good as none and only breaks arithmetic.
MAX_LIFETIME = 10 * 365 * 86400.0

# google-auth's names, in its authorized-user JSON, for what a token endpoint calls otherwise.
_KEPT_NAMES = {"token": "access_token", "expiry": "expires_at", "scopes": "scope"}

# Stands where an access token would: it is over before it is used, so it is never sent.
_NO_ACCESS_TOKEN = "none-yet"  # noqa: S105 (no secret)

_KNOWN = frozenset(
    {"access_token", "refresh_token", "token_type", "expires_in", "expires_at", "scope"}
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class Token:
    """An access token, what renews it, and until when it holds.

    Immutable and thread-safe; tokens are compared by identity. The constructor
    takes ``str`` and keeps :class:`~requests_silent_refresh.redaction.Secret`.

    ``expires_at``, ``issued_at``
        Unix time in seconds by this machine's clock, or ``None`` where unknown.
        A token without a known expiry is used until it is rejected.
    ``refresh_token``
        ``None`` for grants that need none (client credentials).
    ``scope``
        The scopes granted, as a tuple; the constructor takes RFC 6749's
        space-separated string as well.
    ``extra``
        Whatever else the answer held (an ``id_token``, a tenant). It is stored
        with the token and masked in the repr, since it may hold secrets.

    Raises ``ValueError`` where a token is empty or could not stand in a header,
    or a time is not a finite number.
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
        token_type: str = "Bearer",  # noqa: S107 (the type's name, no secret)
        scope: str | Iterable[str] = (),
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        # Before anything can raise: a traceback may show the locals of these frames.
        access_token, refresh_token = _hidden(access_token), _hidden(refresh_token)
        extra = MaskedDict(extra)
        put = object.__setattr__
        put(self, "access_token", _checked("access_token", access_token))
        put(
            self,
            "refresh_token",
            None if refresh_token is None else _checked("refresh_token", refresh_token),
        )
        put(self, "expires_at", _unix_time("expires_at", expires_at))
        put(self, "issued_at", _unix_time("issued_at", issued_at))
        put(self, "token_type", token_type)
        put(self, "scope", tuple(scope.split() if isinstance(scope, str) else scope))
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

    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Token:
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "a Token is not pickled: keep it in a store and pickle the manager, which reopens it"
        )

    @classmethod
    def from_response(
        cls,
        payload: Mapping[str, Any],
        received_at: float | None = None,
        previous: Token | None = None,
    ) -> Token:
        """Make a token of a token endpoint's answer (RFC 6749 section 5.1).

        ``received_at`` is the Unix time at which the answer came; the lifetime
        is counted from there, so the server's clock does not matter. ``None``
        means that the payload was kept by somebody: a token dictionary of
        requests-oauthlib or Authlib, google-auth's authorized-user JSON, or
        nothing but a ``refresh_token``. Its ``expires_at`` then goes before its
        ``expires_in``, which was counted from a moment nobody knows; and a token
        without an access token has expired, so that it is exchanged before its
        first use and its placeholder never sent.

        ``previous`` is the token that was exchanged: an answer without
        ``refresh_token`` or ``scope`` leaves them as they were (section 6).

        Raises ``ValueError`` where there is no usable token.
        """
        payload = MaskedDict(payload) if received_at is not None else _as_answer(payload)
        if "access_token" not in payload:
            nor = "" if received_at is not None else " and no refresh_token"
            raise ValueError(f"the answer has no access_token{nor}")
        now = time.time() if received_at is None else received_at
        absolute = parse_time(payload.get("expires_at")) if received_at is None else None
        lifetime = None if absolute is not None else _lifetime(payload, now)
        expires_at = absolute if lifetime is None else now + lifetime
        refresh_token = _hidden(payload.get("refresh_token") or None)
        if refresh_token is None and previous is not None:
            refresh_token = previous.refresh_token
        scope = _scope(payload.get("scope"))
        if not scope and previous is not None:
            scope = previous.scope
        token_type = payload.get("token_type")
        return cls(
            payload["access_token"],
            refresh_token,
            expires_at=expires_at,
            issued_at=now if received_at is not None or lifetime is not None else None,
            token_type=token_type if token_type and isinstance(token_type, str) else "Bearer",
            scope=scope,
            extra={k: v for k, v in payload.items() if k not in _KNOWN},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the token in plain text, for a store to encrypt. Holds secrets."""
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
        """Undo :meth:`to_dict`. Raises ``ValueError`` or ``TypeError`` where that is impossible."""
        fields = MaskedDict(fields)
        return cls(**fields)


def _as_answer(kept: Mapping[str, Any]) -> MaskedDict:
    """Name what somebody kept as a token endpoint would have answered it."""
    answer = MaskedDict(kept)
    for theirs, name in _KEPT_NAMES.items():
        if theirs in answer and not answer.get(name):
            answer[name] = answer.pop(theirs)
    answer.pop("client_secret", None)  # the grant's affair, and not to be kept with the token
    if not answer.get("access_token") and answer.get("refresh_token"):
        answer["access_token"] = _NO_ACCESS_TOKEN
        answer["expires_at"] = 0
    return answer


def _hidden(value: object) -> Any:
    """Put a token where no repr shows it; what is no token is replaced by its type."""
    if value is None or isinstance(value, Secret):
        return value
    return Secret(value) if isinstance(value, str) else type(value)


def _checked(name: str, hidden: Any) -> Secret:
    if not isinstance(hidden, Secret):
        # Not a TypeError: it is the server's answer that is wrong as often as the caller.
        raise ValueError(f"{name} is a str, not {getattr(hidden, '__name__', None)}")  # noqa: TRY004
    if not _TOKEN.fullmatch(hidden.reveal()):
        raise ValueError(
            f"{name} must be printable ASCII without spaces or line breaks, and not empty: "
            "was it read from a file with its newline? Try value.strip()"
        )
    return hidden


def _scope(value: object) -> tuple[str, ...]:
    """Read a scope as servers send it: RFC 6749's string, or a list; anything else is none."""
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
        raise ValueError(f"{name} is a Unix time in seconds (a finite number) or None")
    return number


def _number(value: object) -> float | None:
    """Read a number as servers send it: 3600, 3600.0, "3600"; anything else is None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("1e15") else None


def _lifetime(payload: Mapping[str, Any], now: float) -> float | None:
    """Seconds the token lives from receipt on; None where the answer does not say."""
    raw = payload.get("expires_in")
    seconds = _number(raw)
    if seconds is None and isinstance(raw, str):
        moment = parse_time(raw)  # some JSON APIs put a date here
        seconds = None if moment is None else moment - now
    if seconds is None:
        seconds = _jwt_lifetime(payload["access_token"])
    if seconds is None:
        return None
    # A negative lifetime is a token that is already over: ask for another at its next use.
    return min(max(seconds, 0.0), MAX_LIFETIME)


def _jwt_lifetime(access_token: object) -> float | None:
    """Read ``exp - iat`` of a JWT."""
    claims = jwt_claims(access_token)
    exp, iat = _number(claims.get("exp")), _number(claims.get("iat"))
    # A hint that says "already over" would only cause an exchange at every use.
    return None if exp is None or iat is None or exp <= iat else exp - iat


def jwt_claims(text: object) -> dict[str, Any]:
    """Read the claims of a JWT; empty if ``text`` is not one.

    They are not verified: a hint for arithmetic and for people, never to decide by.
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
    """Read a moment as APIs write it: Unix seconds, Unix milliseconds, or ISO 8601.

    Returns Unix time in seconds, or ``None`` for what is not a time. ISO 8601
    without an offset is taken as UTC.
    """
    number = _number(value)
    if number is not None:
        # No expiry of ours lies beyond the year 5138 in seconds; in milliseconds all do.
        return number / 1000 if number > 1e11 else number
    if not isinstance(value, str):
        return None
    text = value.strip()
    # fromisoformat before 3.11 knows neither "Z" nor fractions of other than 3 or 6 digits.
    text = re.sub(r"[zZ]$", "+00:00", text)
    text = re.sub(r"\.(\d+)", lambda m: "." + m[1][:6].ljust(6, "0"), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()
