"""``Client``: who signs in, and the requests that turn a person's consent into tokens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from ..errors import SilentRefreshError
from ..grants.answer import EndpointAnswer, NoAnswer, Outcome
from ..grants.base import contained
from ..grants.oauth import RefreshTokenGrant
from ..grants.token_endpoint import TokenEndpoint
from ..token import Token


class SignInFailed(SilentRefreshError):  # noqa: N818 (named as the errors of errors.py are)
    """A sign-in came to nothing. Nothing was stored and nothing has changed.

    ``error`` and ``error_description`` are the server's words where it had any;
    ``transient`` says whether the server could not be reached or was busy.
    """

    def __init__(self, message: str, *, transient: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.transient = transient


@dataclasses.dataclass(frozen=True)
class Client:
    """A client of an authorization server, as it was registered. Immutable.

    ``client_secret`` is a callable that returns it; ``None`` for a public
    client. ``parameters`` are sent along with the request for consent
    (``audience``, ``prompt``). ``network`` is ``verify``, ``cert`` and
    ``proxies``. ``timeout``: seconds for one request.
    """

    token_endpoint: str
    client_id: str
    client_secret: Callable[[], str] | None = None
    client_auth: Any = None
    scope: tuple[str, ...] = ()
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout: float = 30.0

    def redeem(self, body: str) -> Token:
        """Exchange what a person's consent brought, a form as text, for the first token.

        Blocks for ``timeout`` seconds at the most, and sends once: a code that
        comes twice counts as stolen. Raises :class:`SignInFailed`, and
        ``RefreshFailed`` where the client's secret cannot be had.
        """
        answer = self._ask(TokenEndpoint(self.token_endpoint, **self.network), body)
        try:
            return Token.from_response(answer.payload or {}, answer.received_at)
        except ValueError as error:
            problem = str(error)
        raise SignInFailed(f"{self.token_endpoint} answered, but {problem}")

    def post(self, url: str, body: str, name: str) -> Mapping[str, Any]:
        """Post a form to another endpoint of the server; returns its JSON. As :meth:`redeem`."""
        return self._ask(TokenEndpoint(url, name=name, **self.network), body).payload or {}

    def _ask(self, endpoint: TokenEndpoint, body: str) -> EndpointAnswer:
        """Post as this client and return an answer that is a success."""
        form, grant = dict(parse_qsl(body)), _Authenticated(self)
        outcome = contained(lambda: grant.ask(endpoint, form, time.monotonic() + self.timeout))
        if isinstance(outcome, SilentRefreshError):
            raise outcome
        if isinstance(outcome, NoAnswer):
            raise SignInFailed(
                f"{endpoint} gave no answer ({outcome.detail or outcome.kind}): try again",
                transient=outcome.kind != "set-up",
            )
        payload = outcome.payload or {}
        if 200 <= outcome.status < 300 and payload and not payload.get("error"):
            return outcome
        failure = SignInFailed(
            "",
            error=payload.get("error"),
            error_description=payload.get("error_description"),
            status_code=outcome.status,
            transient=outcome.status in (408, 425, 429) or outcome.status >= 500,
        )
        words = ": ".join(word for word in (failure.error, failure.error_description) if word)
        failure.args = (f"{endpoint} answered {outcome.status}" + (f" ({words})" if words else ""),)
        raise failure


class _Authenticated(RefreshTokenGrant):
    """A grant of which only the client's authentication is used."""

    def __init__(self, client: Client) -> None:
        super().__init__(
            client.token_endpoint,
            client.client_id,
            client.client_secret,
            client_auth=client.client_auth,
            **client.network,
        )

    def ask(self, endpoint: TokenEndpoint, form: dict[str, Any], deadline: float) -> Outcome:
        return endpoint.post(*self._request(form), deadline)
