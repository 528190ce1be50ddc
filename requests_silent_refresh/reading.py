"""``Reader``: finds the tokens, the expiry and the rest in an answer, whatever its shape.

An access token that was granted must never be thrown away, because the refresh token behind it
is spent (P16). So the reader looks for the usual names in any spelling (``access_token``,
``accessToken``, ``AccessToken``), at the top and in nested objects, and a field that cannot be
used costs only that field. The same reader serves the grants, sign-ins, and the files in which
other programs keep their tokens.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from . import arguments
from .jwt import claims_of
from .places import (
    ACCESS,
    REFRESH,
    Found,
    Place,
    access_in,
    at_path,
    clean,
    is_one_of_several,
    normal,
    places_in,
    refresh_near,
    usable,
)
from .redaction import MaskedDict, Secret
from .times import number, parse_expiry, parse_time

_TOKEN_TYPE = ("tokentype",)
_SCOPE = ("scope", "scopes")
_LIFETIME = (
    *("expiresin", "expirein", "expiresinseconds", "tokenexpiresin", "accesstokenexpiresin"),
    *("expiresinms", "ttl", "lifetime", "validfor"),
)
_EXPIRY = (
    *("expiresat", "expireson", "expires", "expire", "expiry", "expiration", "expirydate"),
    *("expirationdate", "expirytime", "expirationtime", "expiretime", "tokenexpiry", "exp"),
    *("tokenexpiresat", "tokenexpiration", "accesstokenexpiresat", "accesstokenexpiry"),
    *("accesstokenexpiration", "accesstokenexpirationtime", "accessexpiration", "validuntil"),
    *("expirationtimestamp", "expirytimestamp", "expirestimestamp", "expiresatms"),
)
# When a kept lifetime began.
_ISSUED = (
    *("issuedat", "issued", "createdat", "obtainedat", "obtainmenttimestamp", "acquiredat"),
    *("receivedat", "retrievedat", "fetchedat", "lastrefresh", "consentedon", "notbefore"),
)
# Azure's tools write this time in the machine's own time zone, without an offset.
_LOCAL_TIME = "expireson"
# Fields that are not kept beside the token, even if they could not be used. The client's secret
# belongs to the grant.
_STANDARD = frozenset(
    {*ACCESS, *REFRESH, *_TOKEN_TYPE, "expiresin", "expiresat", "scope"}
    | {"clientsecret", "consumersecret"}
)

# Expiries are capped here: a later one makes no difference and only breaks arithmetic.
MAX_LIFETIME = 10 * 365 * 86400.0

_FIELD_NAME = re.compile(r"[\w.:@-]{1,40}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was found. A token is a secret, or the type of what was sent in place of one.

    ``problem`` says why there is no access token; ``missed`` names the first path that led
    nowhere, so that a usual name was read instead.
    """

    access_token: Any = None
    refresh_token: Any = None
    expires_at: float | None = None
    issued_at: float | None = None
    token_type: str = "Bearer"  # noqa: S105 (a type, not a secret)
    scope: tuple[str, ...] = ()
    extra: MaskedDict = dataclasses.field(default_factory=MaskedDict)
    problem: str = ""
    missed: str = ""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads answers. Immutable and thread-safe; :meth:`read` never raises.

    ``access_token_path``, ``refresh_token_path``, ``expires_path``
        Where a field is: names joined by dots (``data.token``, ``items.0.token``), or
        ``header:NAME`` or ``cookie:NAME`` of the answer. ``None`` looks for the usual names.
    ``expires_unit``
        ``"s"`` or ``"ms"``, the unit of a lifetime.
    """

    access_token_path: str | None = None
    refresh_token_path: str | None = None
    expires_path: str | None = None
    expires_unit: Literal["s", "ms"] = "s"

    def __post_init__(self) -> None:
        paths = arguments.given(
            access_token_path=self.access_token_path,
            refresh_token_path=self.refresh_token_path,
            expires_path=self.expires_path,
        )
        arguments.paths(**paths)
        arguments.one_of(("s", "ms"), expires_unit=self.expires_unit)

    def read(
        self,
        payload: Mapping[str, Any],
        now: float,
        *,
        kept: bool = False,
        exchanged: bool = False,
        server_time: float | None = None,
        attached: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Reading:
        """Find everything in ``payload``.

        ``kept`` is whether another program saved it at an unknown time; otherwise it was
        received at ``now``. ``exchanged`` is whether a token was spent for it; then a number is
        read as a token's text. ``server_time`` is ``now`` by the server's clock, if known.
        ``attached`` holds the answer's headers and cookies, as ``{"header": ..., "cookie":
        ...}``.
        """
        payload = _unfiled(MaskedDict(payload))
        places = list(places_in(payload))
        top = places[0]
        found = [at_path(top, attached or {}, path) for path in self._paths]
        access = found[0] or access_in(places)
        around, _, token = access or (top, "", None)
        if kept and access is not None and not found[0] and is_one_of_several(access, places):
            return Reading(problem="it has the tokens of several sign-ins: give those of one")
        refresh = found[1] or refresh_near(around, places)
        if access is None and refresh is not None:
            around = refresh[0]
        expiry, issued_at, expires_at = self._times(around, found[2], token, now, kept, server_time)
        token_type, scope = _first(around, _TOKEN_TYPE, _is_text), _first(around, _SCOPE, _words)
        return Reading(
            access_token=_hidden(token, numbers=exchanged),
            refresh_token=_hidden(refresh and refresh[2], numbers=exchanged),
            expires_at=expires_at,
            issued_at=issued_at,
            token_type="Bearer" if token_type is None else token_type[2],
            scope=() if scope is None else _words(scope[2]),
            extra=_rest(around, [access, refresh, expiry, token_type, scope]),
            problem="" if access is not None else f"it has {_names_in(top)}",
            missed=next((p for p, at in zip(self._paths, found, strict=True) if p and not at), ""),
        )

    @property
    def _paths(self) -> tuple[str | None, ...]:
        return self.access_token_path, self.refresh_token_path, self.expires_path

    def _times(
        self,
        around: Place,
        given: Found | None,
        token: object,
        now: float,
        kept: bool,
        server_time: float | None,
    ) -> tuple[Found | None, float | None, float | None]:
        """Return where the expiry is, when the token was issued, and when it expires.

        A lifetime counts from receipt, so the server's clock does not matter; a point in time
        is compared with the server's own clock. In a kept answer a point in time takes
        precedence, because it is often not known when the lifetime began to count.
        """
        names = (*_EXPIRY, *_LIFETIME) if kept else (*_LIFETIME, *_EXPIRY)
        for found in filter(None, (given, _first(around, names, self._expiry))):
            kind, seconds = self._expiry(found[2], found[1]) or ("", 0.0)
            if kind == "at" and kept:
                return found, None, seconds
            if kind:
                since = _first(around, _ISSUED, _is_time) if kept else None
                issued_at = now if since is None else parse_time(since[2]) or now
                seconds -= (server_time or now) if kind == "at" else 0.0
                # A negative lifetime means already expired: it is refreshed at its next use.
                return found, issued_at, issued_at + min(max(seconds, 0.0), MAX_LIFETIME)
        claims = claims_of(token)
        exp, iat = number(claims.get("exp")), number(claims.get("iat"))
        if kept:
            return None, None, exp or _end_in_codex(around)
        # A hint that the token has already expired would only cause an exchange at every use.
        if exp is None or iat is None or exp <= iat:
            return None, now, None
        return None, now, now + min(exp - iat, MAX_LIFETIME)

    def _expiry(self, value: object, key: str) -> tuple[str, float] | None:
        unit = "ms" if normal(key).endswith("ms") else self.expires_unit
        return parse_expiry(value, unit, local=normal(key) == _LOCAL_TIME)


def _end_in_codex(around: Place) -> float | None:
    """Return the end of a token that Codex keeps: it refreshes what is older than eight days."""
    last = _first(around, ("lastrefresh",), _is_time)
    moment = None if last is None else parse_time(last[2])
    return None if moment is None else moment + 8 * 86400


def _hidden(value: Any, *, numbers: bool) -> Any:
    """Return a token as a secret; in place of any other value its type, which says what it was."""
    if numbers and usable(value):
        value = str(value)
    if value is None:
        return None
    return Secret(clean(value)) if isinstance(value, str) else type(value)


def _first(around: Place, names: tuple[str, ...], read: Callable[[Any, str], Any]) -> Found | None:
    """Return the first field in the place or around it whose value ``read`` can use."""
    for name in names:
        for place in around.outwards:
            for key in place.keys((name,)):
                if read(place.fields[key], key):
                    return place, key, place.fields[key]
    return None


def _is_text(value: object, _: str) -> bool:
    return isinstance(value, str) and bool(value)


def _is_time(value: object, _: str) -> bool:
    return parse_time(value) is not None


def _words(value: object, _: str = "") -> tuple[str, ...]:
    """Read a scope as servers send it: RFC 6749's string or a list; empty for anything else."""
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, (list, tuple)):
        return tuple(scope for scope in value if isinstance(scope, str))
    return ()


def _rest(around: Place, used: list[Found | None]) -> MaskedDict:
    """Return the fields that were not used, of the place and of those around it."""
    taken = {(id(found[0]), found[1]) for found in used if found is not None}
    rest = MaskedDict()
    within = ""
    for place in around.outwards:
        for key, value in _unused(place, taken).items():
            if key != within:
                others = [_unused(inner, taken) for inner in place.inside(key)]
                nested = [inner for inner in place.inside(key) if _is_taken(inner, taken)]
                rest.setdefault(key, _plain(others[0] if nested else value))
        within = place.key
    return rest


def _unused(place: Place, taken: set[tuple[int, str]]) -> MaskedDict:
    return MaskedDict(
        (key, value)
        for key, value in place.fields.items()
        if normal(key) not in _STANDARD and (id(place), key) not in taken
    )


def _is_taken(place: Place, taken: set[tuple[int, str]]) -> bool:
    return any((id(place), key) in taken for key in place.fields)


def _plain(value: Any) -> Any:
    """Return a value that JSON can write: databases give dates and decimals as objects."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        if isinstance(value, Decimal):
            return float(value)
        return value.isoformat() if isinstance(value, datetime) else None
    return value


def _names_in(top: Place) -> str:
    """Name the fields of an answer that nobody could read; their names hold no secret."""
    names = [key if _FIELD_NAME.fullmatch(key) else "?" for key in top.fields]
    return f"the fields {', '.join(names[:20])}" if names else "no fields"


def _unfiled(payload: MaskedDict) -> MaskedDict:
    """Turn MSAL's token cache, in which tokens are filed by account, into an answer."""
    filed = {name: payload.get(name) for name in ("AccessToken", "RefreshToken")}
    entries = {
        name: [entry for entry in cached.values() if isinstance(entry, Mapping)]
        for name, cached in filed.items()
        if isinstance(cached, Mapping)
    }
    if not any("secret" in entry for found in entries.values() for entry in found):
        return payload
    access = entries.get("AccessToken") or [{}]
    refresh = entries.get("RefreshToken") or [{}]
    accounts = {entry.get("home_account_id") for entry in [*access, *refresh]} - {None}
    if len(accounts) > 1:
        return MaskedDict(items=[{"access_token": entry.get("secret")} for entry in access])
    newest: Mapping[str, Any] = max(access, key=lambda e: number(e.get("expires_on")) or 0.0)
    return MaskedDict(
        newest, access_token=newest.get("secret"), refresh_token=refresh[0].get("secret")
    )
