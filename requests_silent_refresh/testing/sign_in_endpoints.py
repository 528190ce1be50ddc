"""The endpoints for sign-in: authorization, device authorization, metadata, a login page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .answers import NO_STORE, NOT_FOUND, Answer, Request
from .authorizations import DEVICE_GRANT, Authorizations
from .events import EventLog
from .tokens import Refused

#: The first segments of the paths that this module answers.
PATHS = frozenset({".well-known", "authorize", "device", "device_authorization"})


class SignInEndpoints:
    """Asks users for consent and redeems their codes. Has no state of its own.

    ``issuer`` returns the server's URL, which is also its issuer identifier.
    """

    def __init__(
        self,
        authorizations: Authorizations,
        log: EventLog,
        issuer: Callable[[], str],
        client_id: str,
    ) -> None:
        self._authorizations = authorizations
        self._log = log
        self._issuer = issuer
        self._client_id = client_id

    def answer(self, request: Request) -> Answer:
        """Answer a request to one of :data:`PATHS`."""
        page = {
            # RFC 8414, and the path of OpenID Connect
            "/.well-known/oauth-authorization-server": self._metadata,
            "/.well-known/openid-configuration": self._metadata,
            "/authorize": self._authorize,
            "/device": self._device,
            "/device_authorization": self._device_authorization,
        }.get(request.path)
        return NOT_FOUND if page is None else page(request, _fields(request))

    def redeems(self, grant: str) -> bool:
        """Return whether :meth:`token` answers the token endpoint's requests with ``grant``."""
        return grant in ("authorization_code", DEVICE_GRANT)

    def token(self, request: Request, grant: str, form: dict[str, str]) -> dict[str, Any]:
        """Answer an authenticated client at the token endpoint. Raises ``Refused``."""
        by_device = grant == DEVICE_GRANT
        try:
            if by_device:
                return self._authorizations.redeem_device(form)
            return self._authorizations.redeem_code(form)
        except Refused as refusal:
            self._log.append(
                "sign-in-refused",
                began=request.arrived_at,
                path=request.path,
                grant="device_code" if by_device else grant,
                error=refusal.error,
                reason=refusal.reason,
            )
            raise

    def _metadata(self, request: Request, fields: Mapping[str, str]) -> Answer:
        issuer = self._issuer()
        return Answer.json(
            200,
            {
                "issuer": issuer,
                "authorization_endpoint": issuer + "/authorize",
                "token_endpoint": issuer + "/token",
                "device_authorization_endpoint": issuer + "/device_authorization",
                "revocation_endpoint": issuer + "/revoke",
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token", DEVICE_GRANT],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            },
        )

    # With a browser (RFC 6749 section 4.1).

    def _authorize(self, request: Request, fields: Mapping[str, str]) -> Answer:
        redirect_uri = fields.get("redirect_uri", "")
        if fields.get("client_id") != self._client_id or not _is_loopback(redirect_uri):
            # Not redirected: the client or its redirect URI is not trusted (section 4.1.2.1).
            return _page(400, "Invalid request", "<p>Unknown client or redirect URI.")
        answer = {"state": fields["state"]} if "state" in fields else {}
        answer["iss"] = self._issuer()
        if fields.get("response_type") != "code":
            return _redirect(redirect_uri, {"error": "unsupported_response_type", **answer})
        if fields.get("code_challenge_method") != "S256" or not fields.get("code_challenge"):
            words = {"error": "invalid_request", "error_description": "PKCE with S256 is required"}
            return _redirect(redirect_uri, words | answer)
        decision = fields.get("decision") if request.method == "POST" else None
        if decision is None:
            return _login_page("/authorize", fields, fields.get("scope", ""))
        if decision != "allow":
            return _redirect(redirect_uri, {"error": "access_denied", **answer})
        code = self._authorizations.new_code(
            fields.get("scope", ""),
            fields.get("username") or "somebody",
            redirect_uri,
            fields["code_challenge"],
        )
        return _redirect(redirect_uri, {"code": code, **answer})

    # With a device code (RFC 8628).

    def _device_authorization(self, request: Request, fields: Mapping[str, str]) -> Answer:
        if request.method != "POST" or fields.get("client_id") != self._client_id:
            return Answer.json(400, {"error": "invalid_client"}, NO_STORE)
        payload = self._authorizations.new_device(fields.get("scope", ""))
        here = self._issuer() + "/device"
        payload["verification_uri"] = here
        payload["verification_uri_complete"] = f"{here}?user_code={payload['user_code']}"
        self._log.append("device", began=request.arrived_at, path=request.path, status=200)
        return Answer.json(200, payload, NO_STORE)

    def _device(self, request: Request, fields: Mapping[str, str]) -> Answer:
        user_code = fields.get("user_code", "")
        decision = fields.get("decision") if request.method == "POST" else None
        if decision is None:
            return _login_page("/device", {}, "", user_code)
        subject = (fields.get("username") or "somebody") if decision == "allow" else None
        if not self._authorizations.decide(user_code, subject):
            return _page(400, "No device waits for this code", "<p>Check the code.")
        return _page(200, "Done", "<p>Go back to your device.")


def _fields(request: Request) -> dict[str, str]:
    """Return the fields of the query and of the form; the form takes precedence."""
    pairs = parse_qsl(urlsplit(request.target).query, keep_blank_values=True)
    if request.method == "POST":
        pairs += request.form
    return dict(pairs)


def _is_loopback(uri: str) -> bool:
    """Return whether ``uri`` is a loopback redirect, on any port (RFC 8252 section 7.3)."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")


def _redirect(uri: str, fields: Mapping[str, str]) -> Answer:
    joint = "&" if urlsplit(uri).query else "?"
    return Answer(303, {"Location": uri + joint + urlencode(fields), **NO_STORE})


def _login_page(
    action: str, hidden: Mapping[str, str], scope: str, user_code: str | None = None
) -> Answer:
    fields = [
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in hidden.items()
        if name not in ("decision", "username")
    ]
    if user_code is not None:
        fields.append(
            f'<p><label>Code <input name="user_code" value="{html.escape(user_code)}"></label>'
        )
    asked = f"<p>Requested scope: {html.escape(scope)}" if scope else ""
    body = (
        f'<form method="post" action="{action}">{"".join(fields)}{asked}'
        '<p><label>Name <input name="username" autofocus></label>'
        '<p><button name="decision" value="allow">Allow</button> '
        '<button name="decision" value="deny">Deny</button></form>'
    )
    return _page(200, "Sign in", body)


def _page(status: int, title: str, body: str) -> Answer:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1>{body}</html>"
    )
    return Answer(status, {"Content-Type": "text/html; charset=utf-8", **NO_STORE}, text.encode())
