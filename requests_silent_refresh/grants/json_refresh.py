"""``JSONRefresh``: for the many APIs that refresh tokens in their own JSON format."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from .. import arguments
from ..redaction import hidden_mapping
from ..system.foreign import secrets_of
from ..token import Token, parse_time
from . import outcomes
from .answer import EndpointAnswer
from .base import Grant, Message, literal_secrets, refresh_token_of, resolve, secrets_among
from .protocol import EXCHANGE_TIMEOUT
from .token_endpoint import TokenEndpoint, hidden_url

# The usual containers and names of fields, in the order in which they are tried.
_CONTAINERS = ("data", "result", "tokens", "token")
_ACCESS_TOKEN = ("access_token", "accessToken", "access", "token", "jwt")
_REFRESH_TOKEN = ("refresh_token", "refreshToken", "refresh")
_EXPIRY = ("expires_in", "expiresIn", "expires_at", "expiresAt", "expires", "expiry", "expiration")
_TOKEN_TYPE = ("token_type", "tokenType")

# Lifetimes are below these numbers, points in time above: in "s" 31 years and the year 2001, in
# "ms" 3 years and 1973.
_LONGEST_LIFETIME = {"s": 1e9, "ms": 1e11}


class JSONRefresh(Grant):
    """Exchanges a refresh token by ``POST {"token": "..."}``, as many non-standard APIs do.

    >>> manager = TokenManager(
    ...     JSONRefresh("https://api.example.com/refresh", access_token_path="session.jwt.value")
    ... )

    The usual names of fields in an answer are recognised, at the top level or one level down.
    Any other name must be given as a path.

    ``refresh_field``
        Path of the refresh token in the request.
    ``access_token_path``, ``refresh_token_path``, ``expires_path``
        Paths in the answer, names joined by dots; ``None`` tries the usual names. If the
        answer has no refresh token, the old one stays valid.
    ``expires_unit``
        ``"s"`` or ``"ms"``, the unit of a lifetime. Points in time (ISO 8601, or Unix time in
        either unit) are told from lifetimes by their size.
    ``extra``, ``headers``
        More fields of the request and more headers. A callable is called for the value at
        each exchange.
    ``classify``
        As in :class:`~.oauth.RefreshTokenGrant`. By default a 400 or 401 with a JSON object
        means that the session has ended.

    The other parameters, and the exceptions of the constructor, are those of
    :class:`~.oauth.RefreshTokenGrant`.
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
        timeout: float = EXCHANGE_TIMEOUT,
        classify: outcomes.Classify | None = None,
        ambiguous_retry: bool = True,
        verify: bool | str | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        url, proxies = hidden_url(url), hidden_mapping(proxies)
        extra, headers = hidden_mapping(extra), hidden_mapping(headers)
        super().__init__(
            TokenEndpoint(url, name="url", verify=verify, cert=cert, proxies=proxies, clock=clock),
            outcomes.by_json_dialect,
            timeout=timeout,
            classify=classify,
            ambiguous_retry=ambiguous_retry,
        )
        arguments.texts(refresh_field=refresh_field)
        paths = {
            "refresh_field": refresh_field,
            **arguments.given(
                access_token_path=access_token_path,
                refresh_token_path=refresh_token_path,
                expires_path=expires_path,
            ),
        }
        arguments.texts(**paths)
        for name, path in paths.items():
            if not all(path.split(".")):
                raise ValueError(f"{name} must be names joined by dots, such as 'data.token'")
        if expires_unit not in tuple(_LONGEST_LIFETIME):
            raise ValueError(f"expires_unit must be 's' or 'ms', not {expires_unit!r}")
        self._refresh_field = refresh_field
        self._access_token_path = access_token_path
        self._refresh_token_path = refresh_token_path
        self._expires_path = expires_path
        self._expires_unit = expires_unit
        self._extra = _json_fields(extra)
        self._headers = arguments.mapping("headers", headers)
        for name, value in self._headers.items():
            arguments.header_tokens(**{f"headers: the name {name!r}": name})
            arguments.header_values(**{f"headers[{name!r}]": value})

    def _exchange(self, token: Token | None) -> Token:
        deadline = self._deadline()
        refresh_token = refresh_token_of(token)
        fields = {name: resolve(name, value) for name, value in self._extra.items()}
        _put(fields, self._refresh_field, refresh_token)
        headers = {name: resolve(name, value) for name, value in self._headers.items()}

        def read(answer: EndpointAnswer) -> Token:
            return Token.from_response(self._rfc_6749(answer), answer.received_at, token)

        secrets = [*secrets_of(token), *secrets_among(fields), *secrets_among(headers)]
        headers = {"Content-Type": "application/json", **headers}
        return self._talk(Message(json.dumps(fields).encode(), headers, secrets), deadline, read)

    def _rfc_6749(self, answer: EndpointAnswer) -> dict[str, Any]:
        """Return the answer with its fields renamed to those of RFC 6749 section 5.1.

        Raises ``ValueError`` if it contains no access token.
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
        """Return the object that contains the access token, and the token's name in it."""
        if self._access_token_path is not None:
            parents, _, name = self._access_token_path.rpartition(".")
            around = _get(payload, parents) if parents else payload
            if isinstance(around, dict) and around.get(name):
                return around, name
            raise ValueError(f"it has no value at {self._access_token_path}")
        for around in (payload, *(payload.get(container) for container in _CONTAINERS)):
            if isinstance(around, dict):
                for name in _ACCESS_TOKEN:
                    if type(around.get(name)) in (str, int):
                        return around, name
        raise ValueError("it has no access token under a usual name: set access_token_path")

    def _lifetime(self, value: object, server_time: float) -> float | None:
        """Return the lifetime in seconds; a point in time is compared with the server's clock."""
        moment = parse_time(value)
        if moment is None:
            return None
        try:
            number = float(value)  # type: ignore[arg-type]  # raises TypeError for other types
        except (TypeError, ValueError):
            return moment - server_time
        if number < _LONGEST_LIFETIME[self._expires_unit]:
            return number / 1000 if self._expires_unit == "ms" else number
        return moment - server_time

    def _literal_secrets(self) -> Iterable[str]:
        yield from super()._literal_secrets()
        yield from literal_secrets("extra", self._extra)
        yield from literal_secrets("headers", self._headers)


def _json_fields(extra: Any) -> dict[str, Any]:
    """Return a copy of ``extra``; raises if a field of it cannot be written as JSON."""
    fields = arguments.mapping("extra", extra)
    sources = {name: value for name, value in fields.items() if callable(value)}
    arguments.functions(**{f"extra[{name!r}]": value for name, value in sources.items()})
    plain = hidden_mapping({k: v for k, v in fields.items() if k not in sources})
    arguments.json_values(extra=plain)
    return fields


def _put(fields: dict[str, Any], path: str, value: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        # A copy: the nested object belongs to the caller and must not keep the token.
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
    """Return the value at ``path``, or without one under a usual name in ``around`` or on top."""
    if path is not None:
        return _get(payload, path)
    for place in (around, payload):
        for name in names:
            if place.get(name) is not None:
                return place[name]
    return None
