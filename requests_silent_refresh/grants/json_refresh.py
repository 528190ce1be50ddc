"""``JSONRefresh``: for the many APIs that refresh tokens in their own JSON format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from .. import arguments
from ..redaction import MaskedDict, hidden_mapping
from ..system.foreign import secrets_of
from ..token import Token
from . import outcomes
from .base import Grant
from .sent import (
    Message,
    Value,
    literal_secrets,
    refresh_token_of,
    resolved,
    secrets_among,
    sources_in,
    templates_in,
    without_sources,
)
from .token_endpoint import hidden_url

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import GrantOptions

_METHODS = ("POST", "PUT", "PATCH", "GET")


class JSONRefresh(Grant):
    """Exchanges a refresh token by ``POST {"token": "..."}``, as many non-standard APIs do.

    >>> manager = TokenManager(
    ...     JSONRefresh("https://api.example.com/refresh", access_token_path="session.jwt.value")
    ... )

    The tokens may also travel elsewhere. ``{refresh_token}`` and ``{access_token}`` stand for
    them in ``extra``, ``headers``, ``cookies`` and ``query``:

    >>> by_header = JSONRefresh(
    ...     "https://api.example.com/refresh", headers={"Authorization": "Bearer {refresh_token}"}
    ... )
    >>> by_cookie = JSONRefresh(
    ...     "https://api.example.com/refresh", cookies={"refresh_token": "{refresh_token}"}
    ... )

    ``refresh_field``
        Path of the refresh token in the body of the request, names joined by dots. By default
        it is ``token``, or none if there is a template for a token elsewhere.
    ``extra``
        More fields of the body.
    ``cookies``, ``query``
        Cookies and query parameters of the request. A refresh token that is sent in a cookie
        is also read from the cookie of that name that the answer sets.
    ``method``
        ``"POST"``, ``"PUT"``, ``"PATCH"``, or ``"GET"``, which has no body.

    Any value may be a callable, which is called at each exchange. The other parameters, and the
    exceptions of the constructor, are those of :class:`~.base.Grant`. Without ``classify`` and
    ``dialect``, a 401 with a JSON object means that the session has ended, unless its words are
    about the request; a 400 only if it says so of a token or session.
    """

    _usual_refresh_field: str | None = "token"
    _body_argument = "extra"

    def __init__(
        self,
        url: str,
        *,
        refresh_field: str | None = None,
        extra: Mapping[str, Any] | None = None,
        cookies: Mapping[str, Value] | None = None,
        query: Mapping[str, Value] | None = None,
        method: Literal["POST", "PUT", "PATCH", "GET"] = "POST",
        **options: Unpack[GrantOptions],
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        url, extra, hidden = hidden_url(url), hidden_mapping(extra), MaskedDict(options)
        cookies, query = hidden_mapping(cookies), hidden_mapping(query)
        del options
        super().__init__(url, "url", outcomes.by_json_dialect, **_with_cookie(hidden, cookies))
        arguments.one_of(_METHODS, method=method)
        self._method = method
        self._extra = _json_fields(self._body_argument, extra)
        self._cookies = _texts("cookies", cookies)
        self._query = _texts("query", query)
        sent = [self._extra, self._headers, self._cookies, self._query]
        elsewhere = set().union(*map(templates_in, sent))
        self._refresh_field = refresh_field
        if refresh_field is None and not elsewhere:
            self._refresh_field = self._usual_refresh_field
        arguments.paths(**arguments.given(refresh_field=self._refresh_field))
        if method == "GET" and (self._refresh_field or self._extra):
            raise ValueError(
                "a GET has no body: put a template for the token into query or headers"
            )
        self.needs_refresh_token = bool(self._refresh_field or "refresh" in elsewhere)

    def _exchange(self, token: Token | None) -> Token:
        deadline = self._deadline()
        fields, headers = resolved(self._extra, token), resolved(self._headers, token)
        cookies, query = resolved(self._cookies, token), resolved(self._query, token)
        if self._refresh_field is not None:
            _put(fields, self._refresh_field, refresh_token_of(token))
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        body = None
        if self._method != "GET":
            body = json.dumps(fields).encode()
            headers = {"Content-Type": "application/json", **headers}
        secrets = [*secrets_of(token)]
        for sent in (fields, headers, query):
            secrets += secrets_among(sent)
        message = Message(body, headers, secrets, self._method, urlencode(query, quote_via=quote))
        return self._talk(message, deadline, token)

    def _literal_secrets(self) -> Iterable[str]:
        yield from super()._literal_secrets()
        yield from literal_secrets(self._body_argument, self._extra)
        yield from literal_secrets("cookies", self._cookies)
        yield from literal_secrets("query", self._query)


def _with_cookie(options: MaskedDict, cookies: Mapping[str, Value] | None) -> MaskedDict:
    """Return the options with the cookie that carries the refresh token as its path."""
    for name, value in arguments.mapping("cookies", cookies).items():
        if "refresh" in templates_in(value) and options.get("refresh_token_path") is None:
            return MaskedDict(options, refresh_token_path=f"cookie:{name}")
    return options


def _texts(what: str, values: Mapping[str, Value] | None) -> dict[str, Any]:
    """Return a copy of a mapping of names to texts or callables."""
    copied = arguments.mapping(what, values)
    arguments.header_values(**{f"{what}[{name!r}]": value for name, value in copied.items()})
    return copied


def _json_fields(name: str, values: Any) -> dict[str, Any]:
    """Return a copy of ``values``; raises if a field of it cannot be written as JSON."""
    fields = arguments.mapping(name, values)
    for label, source in sources_in(name, fields):
        arguments.functions(**{label: source})
    arguments.json_values(**{name: hidden_mapping(without_sources(fields))})
    return fields


def _put(fields: dict[str, Any], path: str, value: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        # A copy: the nested object belongs to the caller and must not keep the token.
        nested = fields.get(parent)
        fields[parent] = nested = dict(nested) if isinstance(nested, Mapping) else {}
        fields = nested
    fields[name] = value
