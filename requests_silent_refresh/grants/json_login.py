"""``JSONLogin``: for APIs with a login and no refresh token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RefreshFailed, SessionExpired
from ..redaction import MaskedDict, hidden_mapping
from ..token import Token
from .answer import Outcome
from .dialect import Verdict
from .json_refresh import JSONRefresh
from .sent import Value, is_secret_name
from .token_endpoint import hidden_url

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import GrantOptions

# Seconds until a refused login is tried again: many servers lock an account after a few.
REFUSED_PAUSE = 300.0


class JSONLogin(JSONRefresh):
    """Gets each token by a login: ``POST {"username": "...", "password": "..."}``.

    >>> from requests_silent_refresh import JSONLogin
    >>> from requests_silent_refresh.secret_sources import FromEnvironment, FromFile
    >>> login = JSONLogin(
    ...     "https://api.example.com/login",
    ...     {"username": FromEnvironment("API_USER"), "password": FromFile("/run/secrets/api")},
    ... )
    >>> manager = TokenManager(login)

    Nobody has to sign in, and nothing is spent. For an API with a refresh token that ends as
    well, the login follows when it is refused, and gets the first token too:

    >>> refresh = JSONRefresh("https://api.example.com/refresh")
    >>> manager = TokenManager(refresh, on_session_expired=login)

    ``fields``
        The body of the request. A value, also in a nested object, may be a callable that is
        called at each login (:mod:`~requests_silent_refresh.secret_sources`).

    The other parameters, and the exceptions of the constructor, are those of
    :class:`~.json_refresh.JSONRefresh`. A login that the server refuses is ``RefreshFailed``, and
    is not tried again for 5 minutes, because many servers lock an account after a few.
    """

    rotates = False
    needs_sign_in = False
    _usual_refresh_field = None
    _body_argument = "fields"

    def __init__(
        self,
        url: str,
        fields: Mapping[str, Any],
        *,
        cookies: Mapping[str, Value] | None = None,
        query: Mapping[str, Value] | None = None,
        method: Literal["POST", "PUT", "PATCH", "GET"] = "POST",
        **options: Unpack[GrantOptions],
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        url, fields, hidden = hidden_url(url), hidden_mapping(fields), MaskedDict(options)
        cookies, query = hidden_mapping(cookies), hidden_mapping(query)
        del options
        super().__init__(url, extra=fields, cookies=cookies, query=query, method=method, **hidden)
        if self.needs_refresh_token:
            raise ValueError("a login cannot send a refresh token: use JSONRefresh")

    @property
    def identity(self) -> str:
        """The URL, and what ``fields`` say openly: with another user it is another session."""
        user = {
            name: value
            for name, value in self._extra.items()
            if isinstance(value, (str, int)) and not is_secret_name(name)
        }
        return f"{super().identity}, login {user}"

    def __call__(self, token: Token | SessionExpired | None = None) -> Token:
        """Log in and return the new token, whatever ``token`` was.

        Raises ``RefreshFailed`` if the server refuses the login or a retry cannot help, and
        ``RefreshUnavailable`` if a retry may help.
        """
        try:
            return super().__call__(None)
        except RefreshFailed as error:
            if error.status_code in (400, 401, 403, 422):
                error.retry_after = max(error.retry_after or 0.0, REFUSED_PAUSE)
            raise

    def _verdict(self, outcome: Outcome) -> Verdict:
        verdict = super()._verdict(outcome)
        return "wrong" if verdict == "refused" else verdict
