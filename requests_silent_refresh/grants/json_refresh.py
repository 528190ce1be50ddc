"""``JSONRefresh``: the many APIs that refresh tokens in JSON of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from ..errors import SessionExpired
from ..token import Token, parse_time
from . import outcomes
from .answer import EndpointAnswer
from .base import Grant, literal_secrets, resolve
from .token_endpoint import TokenEndpoint

# Where APIs put tokens, and what they call them, in the order they are looked for.
_CONTAINERS = ("data", "result", "tokens", "token")
_ACCESS_TOKEN = ("access_token", "accessToken", "access", "token", "jwt")
_REFRESH_TOKEN = ("refresh_token", "refreshToken", "refresh")
_EXPIRY = ("expires_in", "expiresIn", "expires_at", "expiresAt", "expires", "expiry", "expiration")
_TOKEN_TYPE = ("token_type", "tokenType")

# A lifetime is less than 31 years, a moment is after 2001; in milliseconds, 3 years and 1973.
_LONGEST_LIFETIME = {"s": 1e9, "ms": 1e11}


class JSONRefresh(Grant):
    """Exchanges a refresh token by ``POST {"token": "..."}``, as many APIs of no standard do.

    What the usual answers call their fields is known, flat or one level down, and
    paths say so where it is not: ``access_token_path="session.jwt.value"``.

    ``refresh_field``
        Path of the refresh token in the request.
    ``access_token_path``, ``refresh_token_path``, ``expires_path``
        Paths in the answer, names joined by dots; ``None``: the usual ones. An
        answer without a refresh token leaves the old one in force.
    ``expires_unit``
        ``"s"`` or ``"ms"``: what a lifetime is given in. Moments (ISO 8601, Unix
        time in either unit) are told from lifetimes by their size.
    ``extra``, ``headers``
        More fields of the request and more headers. A callable is asked for the
        value at each exchange.
    ``classify``
        As in :class:`~.grants.RefreshTokenGrant`. By default a 400 or 401 with a
        JSON object means that the session is over.

    The rest is as in :class:`~.grants.RefreshTokenGrant`. Raises ``ValueError``
    and ``InsecureTransport`` as that does.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_field: str = "token",
        access_token_path: str | None = None,
        refresh_token_path: str | None = None,
        expires_path: str | None = None,
        expires_unit: Literal["s", "ms"] = "s",
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | Callable[[], str]] | None = None,
        timeout: float = 30.0,
        classify: outcomes.Classify | None = None,
        ambiguous_retry: bool = True,
        verify: bool | str | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            TokenEndpoint(url, name="url", verify=verify, cert=cert, proxies=proxies, clock=clock),
            outcomes.by_json_dialect,
            timeout=timeout,
            classify=classify,
            ambiguous_retry=ambiguous_retry,
        )
        paths = (refresh_field, access_token_path, refresh_token_path, expires_path)
        if any(path is not None and not all(path.split(".")) for path in paths):
            raise ValueError("a path is names joined by dots, such as 'data.access_token'")
        if expires_unit not in _LONGEST_LIFETIME:
            raise ValueError(f"expires_unit is 's' or 'ms', not {expires_unit!r}")
        self._refresh_field = refresh_field
        self._access_token_path = access_token_path
        self._refresh_token_path = refresh_token_path
        self._expires_path = expires_path
        self._expires_unit = expires_unit
        self._extra = dict(extra or {})
        # A TypeError now rather than at night, when the token expires.
        json.dumps({name: value for name, value in self._extra.items() if not callable(value)})
        self._headers = dict(headers or {})

    def _exchange(self, token: Token | None) -> Token:
        deadline = self._deadline()
        if token is None or token.refresh_token is None:
            raise SessionExpired("there is no refresh token to exchange: sign in (again)")
        fields = {name: resolve(name, value) for name, value in self._extra.items()}
        _put(fields, self._refresh_field, token.refresh_token.reveal())
        headers = {name: resolve(name, value) for name, value in self._headers.items()}

        def read(answer: EndpointAnswer) -> Token:
            return Token.from_response(self._rfc_6749(answer), answer.received_at, token)

        return self._talk(
            json.dumps(fields).encode(),
            {"Content-Type": "application/json", **headers},
            deadline,
            read,
        )

    def _rfc_6749(self, answer: EndpointAnswer) -> dict[str, Any]:
        """Return the answer under the names of RFC 6749 section 5.1.

        Raises ``ValueError`` where it holds no access token.
        """
        payload = answer.payload or {}
        around, name = self._around_access_token(payload)
        known = {
            "access_token": around[name],
            "refresh_token": _look(payload, around, self._refresh_token_path, _REFRESH_TOKEN),
            "token_type": _look(payload, around, None, _TOKEN_TYPE),
        }
        expires = _look(payload, around, self._expires_path, _EXPIRY)
        lifetime = self._lifetime(expires, answer.server_time)
        if lifetime is not None:
            known["expires_in"] = lifetime
        named = {name, *_REFRESH_TOKEN, *_EXPIRY, *_TOKEN_TYPE}
        return {key: value for key, value in around.items() if key not in named} | known

    def _around_access_token(self, payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the object that holds the access token, and its name in there."""
        if self._access_token_path is not None:
            parents, _, name = self._access_token_path.rpartition(".")
            around = _get(payload, parents) if parents else payload
            if isinstance(around, dict) and around.get(name):
                return around, name
            raise ValueError(f"it holds nothing at {self._access_token_path}")
        for around in (payload, *(payload.get(container) for container in _CONTAINERS)):
            if isinstance(around, dict):
                for name in _ACCESS_TOKEN:
                    if isinstance(around.get(name), str):
                        return around, name
        raise ValueError("it holds no access token under a usual name: give access_token_path")

    def _lifetime(self, value: object, server_time: float) -> float | None:
        """Seconds from the answer on; a moment is the server's, so it is held to its clock."""
        moment = parse_time(value)
        if moment is None:
            return None
        try:
            number = float(value)  # type: ignore[arg-type]  # whatever float() does not take
        except (TypeError, ValueError):
            return moment - server_time
        if number < _LONGEST_LIFETIME[self._expires_unit]:
            return number / 1000 if self._expires_unit == "ms" else number
        return moment - server_time

    def _literal_secrets(self) -> Iterable[str]:
        yield from super()._literal_secrets()
        yield from literal_secrets("extra", self._extra)
        yield from literal_secrets("headers", self._headers)


def _put(fields: dict[str, Any], path: str, value: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        # A copy: what is nested belongs to the caller, and the token must not stay in it.
        nested = fields.get(parent)
        fields[parent] = nested = dict(nested) if isinstance(nested, Mapping) else {}
        fields = nested
    fields[name] = value


def _get(payload: Any, path: str) -> Any:
    for name in path.split("."):
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


def _look(
    payload: dict[str, Any], around: dict[str, Any], path: str | None, names: tuple[str, ...]
) -> Any:
    """Return what stands at ``path``, or under a usual name beside the access token or on top."""
    if path is not None:
        return _get(payload, path)
    for place in (around, payload):
        for name in names:
            if place.get(name) is not None:
                return place[name]
    return None
