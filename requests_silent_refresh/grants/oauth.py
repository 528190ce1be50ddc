"""The OAuth 2.0 grants: refresh token and client credentials (RFC 6749 sections 6 and 4.4)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote_plus, urlencode

from .. import arguments
from ..errors import SilentRefreshError
from ..redaction import MaskedDict, Secret, hidden_mapping
from ..system.foreign import secrets_of
from ..token import Token
from . import outcomes
from .answer import NoAnswer
from .base import Grant, contained
from .sent import (
    Message,
    literal,
    literal_secrets,
    refresh_token_of,
    resolve,
    resolved,
    secrets_among,
)
from .token_endpoint import TokenEndpoint, hidden_url

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import GrantOptions

# Fields that the grants set themselves; a second value in ``extra`` would contradict them.
_RESERVED = frozenset({"grant_type", "refresh_token", "scope", "client_secret"})

Fields = Mapping[str, str | Sequence[str] | Callable[[], str]]
ClientAuth = Literal["basic", "raw-basic", "post", "none"]


class _OAuthGrant(Grant):
    """A grant of RFC 6749: sends a form, and authenticates the client if it has credentials."""

    #: The ``grant_type`` that is sent unless another one is given.
    grant_type = ""
    _needs_credentials = False

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | Callable[[], str] | None = None,
        *,
        grant_type: str | None = None,
        client_auth: ClientAuth | None = None,
        scope: str | Iterable[str] | None = None,
        extra: Fields | None = None,
        revocation_endpoint: str | None = None,
        **options: Unpack[GrantOptions],
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        client_secret, token_endpoint = literal(client_secret), hidden_url(token_endpoint)
        revocation_endpoint = hidden_url(revocation_endpoint)
        extra, hidden = hidden_mapping(extra), MaskedDict(options)
        del options
        if self._needs_credentials and not grant_type and client_auth != "none":
            _check_credentials(client_secret, hidden.get("cert"))
        super().__init__(token_endpoint, "token_endpoint", outcomes.by_rfc_6749, **hidden)
        self._revocation_endpoint = (
            None
            if revocation_endpoint is None
            else TokenEndpoint(revocation_endpoint, name="revocation_endpoint", **self._network)
        )
        arguments.texts(**arguments.given(grant_type=grant_type))
        self.grant_type = grant_type or self.grant_type
        self._client_id = client_id
        self._client_secret = client_secret
        self._client_auth = _client_auth(client_id, client_secret, client_auth)
        self._scope = None if scope is None else " ".join(arguments.words("scope", scope))
        arguments.texts_or_empty(**arguments.given(scope=self._scope))
        self._extra = _fields(extra)
        if _RESERVED & self._extra.keys():
            raise ValueError(
                f"extra must not contain {sorted(_RESERVED)}: the grant sets them, and has "
                "arguments for them"
            )

    @property
    def identity(self) -> str:
        """The token endpoint and the client. See :attr:`.Grant.identity`."""
        return f"{super().identity}, client {self._client_id!r}"

    def revoke(self, token: Token) -> bool:
        """Revoke ``token`` at the server (RFC 7009); ``False`` without a revocation endpoint.

        Revokes the refresh token if there is one; servers then revoke the access token as well,
        or let it expire. Raises ``RefreshFailed`` or ``RefreshUnavailable``. Blocks for at most
        ``timeout`` seconds.
        """
        if self._revocation_endpoint is None:
            return False
        result = contained(lambda: self._revoke(token))
        if isinstance(result, SilentRefreshError):
            raise result
        return True

    def __repr__(self) -> str:
        client_id = getattr(self, "_client_id", None)
        return f"{type(self).__name__}({self._shown_endpoint!r}, client_id={client_id!r})"

    def _revoke(self, token: Token) -> None:
        endpoint, deadline = self._revocation_endpoint, self._deadline()
        assert endpoint is not None  # noqa: S101 (for the type checker: see revoke)
        if token.refresh_token is None:
            form = {"token": token.access_token.reveal(), "token_type_hint": "access_token"}
        else:
            form = {"token": token.refresh_token.reveal(), "token_type_hint": "refresh_token"}
        message = self._request(form, token)
        outcome = endpoint.post(message.body, message.headers, deadline)
        if isinstance(outcome, NoAnswer):
            verdict = outcomes.of_no_answer(outcome)
        elif outcomes.is_success(outcome.status):
            return
        else:
            verdict = outcomes.by_rfc_6749(outcome)
        if verdict == "refused":  # a failed revocation does not end the session
            verdict = "wrong"
        raise outcomes.error_for(outcome, verdict, endpoint, doing="revoked", hide=message.secrets)

    def _grant(self, form: dict[str, Any], token: Token | None) -> Token:
        deadline = self._deadline()
        form["grant_type"] = self.grant_type
        if self._scope is not None:
            form["scope"] = self._scope
        form.update(resolved(self._extra, token))
        return self._talk(self._request(form, token), deadline, token)

    def _request(self, form: dict[str, Any], token: Token | None) -> Message:
        """Return the form and the headers, with the client's credentials (section 2.3.1)."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        secret = resolve("client_secret", self._client_secret)
        if self._client_auth in ("basic", "raw-basic"):
            # Form-encoded first, because name and secret may contain a colon or a "%".
            encode = quote_plus if self._client_auth == "basic" else str
            credentials = f"{encode(self._client_id)}:{encode(secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
        else:
            form["client_id"] = self._client_id
        if self._client_auth == "post":
            form["client_secret"] = secret
        headers |= resolved(self._headers, token)
        secrets = [*secrets_of(token), *secrets_among(form), *secrets_among(headers)]
        return Message(urlencode(form, doseq=True).encode(), headers, secrets)

    def _literal_secrets(self) -> Iterable[str]:
        yield from super()._literal_secrets()
        if isinstance(self._client_secret, Secret):
            yield "client_secret"
        yield from literal_secrets("extra", self._extra)


class RefreshTokenGrant(_OAuthGrant):
    """Exchanges a refresh token (RFC 6749 section 6).

    >>> from requests_silent_refresh.secret_sources import FromEnvironment
    >>> grant = RefreshTokenGrant(
    ...     "https://auth.example.com/token", "nightly-report", FromEnvironment("REPORT_SECRET")
    ... )
    >>> manager = TokenManager(grant)

    ``token_endpoint``
        An https URL; plain http is allowed for loopback addresses, for tests.
    ``client_id``, ``client_secret``
        As registered; a public client has no secret, and an empty one is sent as it is. A
        callable (``secret_sources.FromEnvironment``, ``secret_sources.FromFile``, a KMS) is
        called for the secret at each exchange, and allows the grant to be pickled.
    ``client_auth``
        ``"basic"`` (the default with a secret), ``"raw-basic"`` (the same, but not encoded
        as a form first, for servers that do not decode it), ``"post"`` (in the form), or
        ``"none"`` (the default without a secret).
    ``grant_type``
        Another ``grant_type`` than ``refresh_token``.
    ``scope``
        Requests less than what was granted; ``None`` requests the same.
    ``extra``
        More fields of the form: ``audience``, ``resource``, a ``client_assertion``. A callable
        is called for the value at each exchange, and ``{refresh_token}`` and
        ``{access_token}`` stand for the tokens to exchange.
    ``revocation_endpoint``
        The URL at which a sign-out revokes the token (RFC 7009); ``None`` turns that off.

    The other parameters, and the exceptions of the constructor, are those of
    :class:`~.base.Grant`.
    """

    grant_type = "refresh_token"

    def _exchange(self, token: Token | None) -> Token:
        return self._grant({"refresh_token": refresh_token_of(token)}, token)


class ClientCredentialsGrant(_OAuthGrant):
    """Gets a token for the client itself (RFC 6749 section 4.4); no sign-in is needed.

    >>> from requests_silent_refresh.secret_sources import FromFile
    >>> grant = ClientCredentialsGrant(
    ...     "https://auth.example.com/token", "nightly-report", FromFile("/run/secrets/report")
    ... )
    >>> grant.needs_sign_in
    False

    The parameters are those of :class:`RefreshTokenGrant`. With another ``grant_type``
    (``"account_credentials"``, ``"password"``, ``"urn:ietf:params:oauth:grant-type:jwt-bearer"``),
    ``extra`` has its fields, and a secret is optional. Otherwise the secret may be ``None`` only
    with ``cert``, or with ``client_auth="none"`` and an ``extra`` that authenticates the client
    (a ``client_assertion``, RFC 7523).
    """

    grant_type = "client_credentials"
    rotates = False
    needs_sign_in = False
    needs_refresh_token = False
    _needs_credentials = True

    def _exchange(self, token: Token | None) -> Token:
        return self._grant({}, None)


def _fields(extra: Fields | None) -> dict[str, Any]:
    """Return a copy of ``extra``; raises if a field of it cannot be sent in a form."""
    fields = arguments.mapping("extra", extra)
    expected = "a str, several, or a callable that returns one"
    for name, value in fields.items():
        label = f"extra[{name!r}]"
        if callable(value):
            arguments.functions(expected, **{label: value})
            continue
        several = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
        for one in value if several else [value]:
            arguments.instances((str, int, float), expected, **{label: one})
            arguments.texts_or_empty(**{label: f"{name}{one}"})
    return fields


def _check_credentials(client_secret: object, cert: object) -> None:
    if client_secret is None and cert is None:
        raise ValueError(
            "a client without a secret cannot authenticate: pass client_secret, or cert, or "
            "client_auth='none' with an assertion in extra"
        )


def _client_auth(client_id: object, client_secret: object, client_auth: str | None) -> str:
    arguments.texts(client_id=client_id)
    if client_secret is None:
        if client_auth not in (None, "none"):
            raise ValueError(f"client_auth={client_auth!r} needs a client_secret")
        return "none"
    ways = ("basic", "raw-basic", "post")
    if client_auth is not None:
        arguments.one_of(ways, **{"client_auth with a client_secret": client_auth})
    if isinstance(client_secret, Secret) and not client_secret.reveal():
        if client_auth is None:
            raise ValueError(
                "client_secret must not be empty; for a client that is registered with an empty "
                "secret, pass client_auth='basic' as well"
            )
    else:
        arguments.texts_or_sources(client_secret=client_secret)
    return client_auth or "basic"
