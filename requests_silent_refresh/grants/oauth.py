"""What is exchanged for a new token: the grants.

A grant is a callable, ``grant(token: Token | None) -> Token``, and any callable
of yours that does the same will do. It raises ``SessionExpired`` where the
server refused, ``requests.RequestException`` where trying again may help, and
anything else for a wrong set-up. Optional attributes say more: ``rotates``
(whether an exchange spends the refresh token), ``needs_sign_in`` (whether it
starts from a token), ``timeout`` (seconds in all) and ``revoke(token)``.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote_plus, urlencode

from ..errors import SessionExpired, SilentRefreshError
from ..redaction import Secret
from ..token import Token
from . import outcomes
from .answer import EndpointAnswer, NoAnswer
from .base import Grant, contained, literal, literal_secrets, resolve
from .token_endpoint import TokenEndpoint

# What the grants say themselves; in ``extra`` it would contradict them.
_RESERVED = frozenset({"grant_type", "refresh_token", "scope", "client_secret"})

Fields = Mapping[str, str | Sequence[str] | Callable[[], str]]


class _OAuthGrant(Grant):
    """A grant of RFC 6749: a form, and a client that may have to prove who it is."""

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | Callable[[], str] | None = None,
        *,
        client_auth: Literal["basic", "post", "none"] | None = None,
        scope: str | Iterable[str] | None = None,
        extra: Fields | None = None,
        timeout: float = 30.0,
        revocation_endpoint: str | None = None,
        classify: outcomes.Classify | None = None,
        ambiguous_retry: bool = True,
        verify: bool | str | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        network: dict[str, Any] = {
            "verify": verify,
            "cert": cert,
            "proxies": proxies,
            "clock": clock,
        }
        super().__init__(
            TokenEndpoint(token_endpoint, **network),
            outcomes.by_rfc_6749,
            timeout=timeout,
            classify=classify,
            ambiguous_retry=ambiguous_retry,
        )
        self._revocation_endpoint = (
            None
            if revocation_endpoint is None
            else TokenEndpoint(revocation_endpoint, name="revocation_endpoint", **network)
        )
        self._client_id = client_id
        self._client_secret = literal(client_secret)
        self._client_auth = _client_auth(client_id, client_secret, client_auth)
        self._scope = scope if scope is None or isinstance(scope, str) else " ".join(scope)
        self._extra = dict(extra or {})
        if _RESERVED & self._extra.keys():
            raise ValueError(f"extra holds none of {sorted(_RESERVED)}: the grant sets them")

    def revoke(self, token: Token) -> bool:
        """Revoke ``token`` at the server (RFC 7009); ``False`` without a revocation endpoint.

        The refresh token where there is one: servers then drop the access token
        as well, or let it run out. Raises ``RefreshFailed`` or
        ``RefreshUnavailable``. Blocks for ``timeout`` seconds at the most.
        """
        if self._revocation_endpoint is None:
            return False
        result = contained(lambda: self._revoke(token))
        if isinstance(result, SilentRefreshError):
            raise result
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._endpoint)!r}, client_id={self._client_id!r})"

    def _revoke(self, token: Token) -> None:
        endpoint, deadline = self._revocation_endpoint, self._deadline()
        assert endpoint is not None  # noqa: S101 (for the type checker: see revoke)
        if token.refresh_token is None:
            form = {"token": token.access_token.reveal(), "token_type_hint": "access_token"}
        else:
            form = {"token": token.refresh_token.reveal(), "token_type_hint": "refresh_token"}
        outcome = endpoint.post(*self._request(form), deadline)
        if isinstance(outcome, NoAnswer):
            verdict = outcomes.of_no_answer(outcome)
        elif 200 <= outcome.status < 300:
            return
        else:
            verdict = outcomes.by_rfc_6749(outcome)
        if verdict == "refused":  # a session does not end by this
            verdict = "wrong"
        raise outcomes.error_for(outcome, verdict, endpoint, doing="revoked")

    def _grant(self, form: dict[str, Any], previous: Token | None, deadline: float) -> Token:
        if self._scope is not None:
            form["scope"] = self._scope
        form.update((name, resolve(name, value)) for name, value in self._extra.items())

        def read(answer: EndpointAnswer) -> Token:
            return Token.from_response(answer.payload or {}, answer.received_at, previous)

        return self._talk(*self._request(form), deadline, read)

    def _request(self, form: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Encode the form and put the client's credentials where they belong (section 2.3.1)."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        secret = resolve("client_secret", self._client_secret)
        if self._client_auth == "basic":
            # Encoded as in a form first: a colon or a "%" in a secret is not one of the header's.
            credentials = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
        else:
            form["client_id"] = self._client_id
        if self._client_auth == "post":
            form["client_secret"] = secret
        return urlencode(form, doseq=True).encode(), headers

    def _literal_secrets(self) -> Iterable[str]:
        yield from super()._literal_secrets()
        if isinstance(self._client_secret, Secret):
            yield "client_secret"
        yield from literal_secrets("extra", self._extra)


class RefreshTokenGrant(_OAuthGrant):
    """Exchanges a refresh token (RFC 6749 section 6).

    ``token_endpoint``
        An https URL, or a loopback one for tests.
    ``client_id``, ``client_secret``
        As registered; without a secret the client is a public one. A callable
        is asked for the secret at each exchange (``sources.FromEnvironment``,
        ``sources.FromFile``, a KMS), and lets the grant be pickled.
    ``client_auth``
        ``"basic"`` (the default with a secret), ``"post"`` (in the form), or
        ``"none"`` (the default without).
    ``scope``
        Asks for less than what was granted; ``None`` for the same.
    ``extra``
        More fields of the form: ``audience``, ``resource``, a
        ``client_assertion``. A callable is asked for the value at each exchange.
    ``timeout``
        Seconds that an exchange may take in all, a second try included.
    ``revocation_endpoint``
        Where a sign-out revokes the token (RFC 7009); ``None``: nowhere.
    ``classify``
        ``classify(answer)`` says what an :class:`~.answer.Answer` means:
        ``"granted"``, ``"refused"``, ``"wrong"``, ``"unavailable"``, or ``None``
        for the rules of :mod:`.outcomes`. It is called in the exchange's thread
        for everything the server answers, and must return at once. Saying
        ``"refused"`` wrongly signs people off.
    ``ambiguous_retry``
        Whether to send the same refresh token once more, at once, when the
        connection was closed after sending. ``False`` for a server that takes
        any second use for theft.
    ``verify``, ``cert``, ``proxies``
        As in ``requests``, for this endpoint; ``None``: as the environment says.
        A mapping of proxies replaces the environment's, ``{}`` means none.
    ``clock``
        Gives Unix time in seconds.

    Raises ``ValueError`` for arguments that cannot be meant and
    ``InsecureTransport`` for a URL that is neither https nor loopback.
    """

    def _exchange(self, token: Token | None) -> Token:
        deadline = self._deadline()
        if token is None or token.refresh_token is None:
            raise SessionExpired("there is no refresh token to exchange: sign in (again)")
        form = {"grant_type": "refresh_token", "refresh_token": token.refresh_token.reveal()}
        return self._grant(form, token, deadline)


class ClientCredentialsGrant(_OAuthGrant):
    """Gets a token for the client itself (RFC 6749 section 4.4): nobody has to sign in.

    The arguments are those of :class:`RefreshTokenGrant`. The secret may only be
    missing where ``extra`` proves who the client is (a ``client_assertion``, RFC
    7523), with ``client_auth="none"``.
    """

    rotates = False
    needs_sign_in = False

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | Callable[[], str] | None,
        *,
        client_auth: Literal["basic", "post", "none"] | None = None,
        scope: str | Iterable[str] | None = None,
        extra: Fields | None = None,
        timeout: float = 30.0,
        revocation_endpoint: str | None = None,
        classify: outcomes.Classify | None = None,
        ambiguous_retry: bool = True,
        verify: bool | str | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if client_secret is None and client_auth != "none" and cert is None:
            raise ValueError(
                "a client without a secret cannot prove who it is: give client_secret, or cert, "
                "or client_auth='none' and an assertion in extra"
            )
        super().__init__(
            token_endpoint,
            client_id,
            client_secret,
            client_auth=client_auth,
            scope=scope,
            extra=extra,
            timeout=timeout,
            revocation_endpoint=revocation_endpoint,
            classify=classify,
            ambiguous_retry=ambiguous_retry,
            verify=verify,
            cert=cert,
            proxies=proxies,
            clock=clock,
        )

    def _exchange(self, token: Token | None) -> Token:
        return self._grant({"grant_type": "client_credentials"}, None, self._deadline())


def _client_auth(client_id: object, client_secret: object, client_auth: str | None) -> str:
    if not isinstance(client_id, str) or not client_id:
        raise ValueError("client_id is the name the client was registered under, a str")
    if client_secret is None:
        if client_auth not in (None, "none"):
            raise ValueError(f"client_auth={client_auth!r} needs a client_secret")
        return "none"
    if not callable(client_secret) and not (isinstance(client_secret, str) and client_secret):
        raise ValueError("client_secret is a str, or a callable without arguments that returns one")
    if client_auth not in (None, "basic", "post"):
        raise ValueError(f"client_auth={client_auth!r} with a client_secret: 'basic' or 'post'")
    return client_auth or "basic"
