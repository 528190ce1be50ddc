"""Sign-in with a browser: authorization code, PKCE, loopback redirect (RFC 6749, 7636, 8252)."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

from ..grants.outcomes import words_of
from ..grants.token_endpoint import TokenEndpoint
from ..redaction import MaskedDict
from ..token import Token
from .client import Client, SignInFailed
from .discovery import is_issuer
from .pasted import PastedRedirect
from .redirect import LoopbackRedirect

DEFAULT_REDIRECT = "http://127.0.0.1/callback"

# What an authorization response says about itself (RFC 6749, RFC 9207, OpenID Connect), and what
# only the token endpoint may say.
_RESPONSE_FIELDS = frozenset(
    {
        *("code", "state", "iss", "session_state", "scope", "error", "error_description"),
        *("access_token", "refresh_token", "id_token", "token_type", "expires_in", "expires_at"),
    }
)
_MOST_FIELDS = 20
_LONGEST_FIELD = 500


def with_browser(
    client: Client,
    authorization_endpoint: str,
    show: Callable[[str, bool], object],
    keep: Callable[[Token], object],
    *,
    issuer: str | None = None,
    iss_required: bool = False,
    redirect_uri: str = DEFAULT_REDIRECT,
    bind: str | None = None,
    read_line: Callable[[float], str | None] | None = None,
    say: Callable[[str], object] = lambda text: None,
    open_browser: bool = True,
    timeout: float = 300.0,
    waiting: Callable[[float], object] = lambda left: None,
) -> Token:
    """Let a person sign in with a browser on this machine, and return the token.

    ``show(url, opening)`` is called once with the URL to visit and whether a browser is being
    opened, then ``waiting(seconds)`` twice a second with the time left. ``keep(token)`` is
    called once to store the token, before the browser reports success. ``issuer`` is compared
    with the ``iss`` of the response; a missing ``iss`` is an error only if ``iss_required``
    (RFC 9207). :class:`~.redirect.LoopbackRedirect` describes ``redirect_uri`` and ``bind``.
    With ``read_line`` nothing listens, and a person pastes the address that the browser ended at
    (:class:`~.pasted.PastedRedirect`, also for ``say``). What the response says besides the code
    is kept in the token's ``extra``.

    Blocks for at most ``timeout`` seconds and then for one request. Raises
    :class:`SignInFailed`, ``ValueError`` for an invalid URL, and whatever :meth:`Client.redeem`
    and ``keep`` raise. Uses ``oauthlib`` (extra ``cli``).
    """
    from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

    TokenEndpoint(authorization_endpoint, name="authorization_endpoint")  # checks the URL
    state = secrets.token_urlsafe(32)
    protocol = WebApplicationClient(client.client_id)
    verifier = protocol.create_code_verifier(64)
    listening: LoopbackRedirect | PastedRedirect
    if read_line is None:
        listening = LoopbackRedirect(redirect_uri, state, bind)
    else:
        listening = PastedRedirect(redirect_uri, state, read_line, say)
    with listening as redirect:
        url = _with_https(
            authorization_endpoint,
            lambda endpoint: protocol.prepare_request_uri(
                endpoint,
                redirect_uri=redirect.uri,
                scope=list(client.scope) or None,
                state=state,
                code_challenge=protocol.create_code_challenge(verifier, "S256"),
                code_challenge_method="S256",
                **client.parameters,
            ),
        )
        opening = open_browser and _can_open_a_browser()
        show(url, opening)
        if opening:
            # In a thread, because with some browsers the call returns only when they are closed.
            threading.Thread(target=_open, args=(url,), name="browser", daemon=True).start()
        query = redirect.wait(timeout, waiting)
        try:
            answer = f"https://loopback/?{query}"
            fields = protocol.parse_request_uri_response(answer, state)
            _check_issuer(fields.get("iss"), issuer, iss_required)
            body = protocol.prepare_request_body(
                code=fields["code"],
                redirect_uri=redirect.uri,
                code_verifier=verifier,
                include_client_id=False,
            )
            token = _with_fields(client.redeem(body), query)
            keep(token)
        except OAuth2Error as error:
            raise _refusal(error) from None
        redirect.conclude("Signed in", "You can close this page and go back to the terminal.")
        return token


def _with_fields(token: Token, query: str) -> Token:
    """Return the token with the further fields of the response: QuickBooks' ``realmId``."""
    fields = {
        name[:_LONGEST_FIELD]: value[:_LONGEST_FIELD]
        for name, value in parse_qsl(query)[:_MOST_FIELDS]
        if name not in _RESPONSE_FIELDS
    }
    extra = MappingProxyType(MaskedDict({**fields, **token.extra}))
    return token.twin(extra=extra) if fields else token


def _with_https(url: str, prepare: Callable[[str], str]) -> str:
    """Prepare an authorization request for ``url``, which may be plain http on loopback.

    oauthlib accepts only https; the caller has checked the URL already.
    """
    scheme = urlsplit(url).scheme
    return scheme + prepare("https" + url[len(scheme) :])[len("https") :]


def _check_issuer(iss: str | None, issuer: str | None, required: bool) -> None:
    """Raise ``SignInFailed`` for the response of another server (RFC 9207 section 2.4)."""
    if issuer is None or (not required if iss is None else is_issuer(issuer, iss)):
        return
    named = "no issuer" if iss is None else f"the issuer {iss[:200]!r}"
    raise SignInFailed(
        f"the response to the sign-in names {named}, not {issuer!r}: the sign-in was stopped, "
        "because it may be a mix-up attack. Start it again, and check the issuer if this recurs"
    )


def _refusal(error: object) -> SignInFailed:
    """Return the error for a response of the authorization server without a code."""
    failure = SignInFailed(
        "",
        error=getattr(error, "error", None),
        error_description=getattr(error, "description", None),
        transient=getattr(error, "error", None) in ("server_error", "temporarily_unavailable"),
    )
    if failure.error == "access_denied":
        failure.args = ("the sign-in was denied in the browser",)
    else:
        failure.args = (f"the authorization server refused the sign-in{words_of(failure)}",)
    return failure


def _can_open_a_browser() -> bool:
    if os.environ.get("BROWSER") or sys.platform in ("win32", "darwin"):
        return True
    # Without a display, webbrowser would start a text browser in the terminal that we print to.
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> None:
    try:
        webbrowser.open(url)
    except Exception:  # noqa: BLE001,S110 (the URL has been shown, so a person can copy it)
        pass
