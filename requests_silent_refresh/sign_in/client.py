"""``Client``: a registered client, and its requests during a sign-in."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ..errors import SilentRefreshError
from ..grants.answer import EndpointAnswer, NoAnswer, Outcome
from ..grants.base import contained
from ..grants.oauth import RefreshTokenGrant
from ..grants.outcomes import details_of, is_busy, is_success, words_of
from ..grants.sent import resolved, templates_in
from ..grants.token_endpoint import TokenEndpoint
from ..redaction import Secret
from ..token import Token


class SignInError(SilentRefreshError):
    """Base of the errors of a sign-in.

    ``transient`` is whether trying again later may help, because the server could not be
    reached or was busy. ``error`` and ``error_description`` are the server's, if it gave any.
    """

    def __init__(self, message: str = "", *, transient: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.transient = transient


class SignInFailed(SignInError):  # noqa: N818 (named like the errors in errors.py)
    """The sign-in failed. Nothing was stored or changed."""


#: The parameters of an authorization request that cannot be given (RFC 6749, RFC 7636).
OWN_PARAMETERS = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "response_type",
        "scope",
        "state",
    }
)


@dataclasses.dataclass(frozen=True)
class Client:
    """A client as registered with an authorization server. Immutable.

    ``client_secret`` is a callable that returns the secret, or ``None`` for a public client.
    ``parameters`` are added to the authorization request (``audience``, ``prompt``); a sign-in
    sets :data:`OWN_PARAMETERS` itself, so one of these raises ``ValueError``.
    ``network`` holds ``verify``, ``cert``, ``proxies`` and ``allow_insecure_http``. ``timeout`` is
    in seconds, for one request. ``extra`` are more fields of each request, as in a grant;
    ``resource`` among the parameters is sent with each request, too (RFC 8707 section 2.2).
    """

    token_endpoint: str
    client_id: str
    client_secret: Callable[[], str] | None = None
    client_auth: Any = None
    scope: tuple[str, ...] = ()
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout: float = 30.0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        own = OWN_PARAMETERS & self.parameters.keys()
        if own:
            raise ValueError(f"the parameter {min(own)} is set by the sign-in itself: remove it")

    def redeem(self, body: str) -> Token:
        """Exchange a grant, given as an encoded form, for the first token.

        Sends the form only once, because a code that is used twice counts as stolen. Blocks for
        at most ``timeout`` seconds. Raises :class:`SignInFailed`, and ``RefreshFailed`` if the
        client's secret cannot be obtained.
        """
        answer = self._ask(TokenEndpoint(self.token_endpoint, **self.network), body)
        try:
            return Token.from_response(answer.payload or {}, answer.received_at)
        except ValueError as error:
            problem = str(error)
        raise SignInFailed(f"{self.token_endpoint} answered, but {problem}")

    def post(self, url: str, body: str, name: str) -> Mapping[str, Any]:
        """Post a form to another endpoint of the server and return its JSON; like `redeem`."""
        return self._ask(TokenEndpoint(url, name=name, **self.network), body).payload or {}

    def _ask(self, endpoint: TokenEndpoint, body: str) -> EndpointAnswer:
        """Post as this client and return the answer if it is a success; raise otherwise."""
        form, grant = dict(parse_qsl(body)), _Authenticated(self)
        asked = contained(lambda: grant.ask(endpoint, form, time.monotonic() + self.timeout))
        if isinstance(asked, SilentRefreshError):
            raise asked
        outcome, secrets = asked
        if isinstance(outcome, NoAnswer):
            transient = outcome.kind != "set-up"
            raise SignInFailed(
                f"{endpoint} gave no answer ({outcome.detail or outcome.kind}): "
                + ("try again" if transient else "check verify, cert and proxies"),
                transient=transient,
            )
        payload = outcome.payload or {}
        if is_success(outcome.status) and payload and not payload.get("error"):
            return outcome
        details = details_of(outcome, secrets)
        failure = SignInFailed(transient=is_busy(outcome.status), **details)
        advice = ""
        if outcome.status == 401 or failure.error == "invalid_client":
            advice = ": check the client's ID and secret, and client_auth (basic, post or none)"
        failure.args = (f"{endpoint} answered {outcome.status}{words_of(failure)}{advice}",)
        raise failure


def as_client(client: Client, grant_type: str | None = None) -> Token:
    """Return a token for the client itself (RFC 6749 section 4.4); like :meth:`Client.redeem`.

    ``grant_type`` is the server's own name for that, if it has one.
    """
    from oauthlib.oauth2 import BackendApplicationClient

    protocol = BackendApplicationClient(client.client_id)
    protocol.grant_type = grant_type or protocol.grant_type
    body = protocol.prepare_request_body(scope=list(client.scope) or None, include_client_id=False)
    extra = urlencode(client.parameters)
    return client.redeem(f"{body}&{extra}" if extra else body)


def _resource(client: Client) -> dict[str, str]:
    return {name: value for name, value in client.parameters.items() if name == "resource"}


class _Authenticated(RefreshTokenGrant):
    """A grant that is used only for its client authentication."""

    def __init__(self, client: Client) -> None:
        super().__init__(
            client.token_endpoint,
            client.client_id,
            client.client_secret,
            client_auth=client.client_auth,
            extra={**_resource(client), **client.extra},
            **client.network,
        )

    def ask(
        self, endpoint: TokenEndpoint, form: dict[str, Any], deadline: float
    ) -> tuple[Outcome, list[Secret]]:
        """Return the outcome, and the secrets that were sent."""
        extra = {name: value for name, value in self._extra.items() if not templates_in(value)}
        message = self._request({**resolved(extra, None), **form}, None)
        codes = [Secret(value) for name, value in form.items() if "code" in name]
        return endpoint.post(message.body, message.headers, deadline), [*message.secrets, *codes]
