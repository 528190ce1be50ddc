"""Where people sign in: authorization endpoint, device authorization, metadata, a login page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .answers import Answer, Request
from .authorizations import DEVICE_GRANT, Authorizations
from .events import EventLog
from .tokens import Refused

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

#: The first segment of the paths that are answered here.
PATHS = frozenset({".well-known", "authorize", "device", "device_authorization"})


class SignInEndpoints:
    """Asks people and redeems what they said. Holds no state of its own.

    ``issuer`` gives the server's URL, which is its issuer identifier too.
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
        """Answer what came to one of :data:`PATHS`."""
        if "/.well-known/" in request.path:
            return self._metadata(request)
        page = {
            "/authorize": self._authorize,
            "/device": self._device,
            "/device_authorization": self._device_authorization,
        }.get(request.path)
        if page is None:
            return Answer.json(404, {"error": "there is nothing at this path"})
        fields = _fields(request)
        return page(request, fields)

    def redeems(self, grant: str) -> bool:
        """Say whether the token endpoint hands requests of ``grant`` over to :meth:`token`."""
        return grant in ("authorization_code", DEVICE_GRANT)

    def token(self, request: Request, grant: str, form: dict[str, str]) -> dict[str, Any]:
        """Answer at the token endpoint for a client that has proved itself; raises ``Refused``."""
        redeem = (
            self._authorizations.redeem_device
            if grant == DEVICE_GRANT
            else self._authorizations.redeem_code
        )
        try:
            return redeem(form)
        except Refused as refusal:
            self._log.append(
                "sign-in-refused",
                began=request.arrived_at,
                path=request.path,
                grant="device_code" if grant == DEVICE_GRANT else grant,
                error=refusal.error,
                reason=refusal.reason,
            )
            raise

    def _metadata(self, request: Request) -> Answer:
        """Publish RFC 8414's metadata, under OpenID Connect's name as well."""
        if request.path not in (
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
        ):
            return Answer.json(404, {"error": "there is nothing at this path"})
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

    # The browser's way (RFC 6749 section 4.1).

    def _authorize(self, request: Request, fields: Mapping[str, str]) -> Answer:
        redirect_uri = fields.get("redirect_uri", "")
        if fields.get("client_id") != self._client_id or not _is_loopback(redirect_uri):
            # Never sent anywhere: who asks is not who may be answered (section 4.1.2.1).
            return _page(400, "This request cannot be answered", "<p>Unknown client or redirect.")
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

    # The device's way (RFC 8628).

    def _device_authorization(self, request: Request, fields: Mapping[str, str]) -> Answer:
        if request.method != "POST" or fields.get("client_id") != self._client_id:
            return Answer.json(400, {"error": "invalid_client"}, _NO_STORE)
        payload = self._authorizations.new_device(fields.get("scope", ""))
        here = self._issuer() + "/device"
        payload["verification_uri"] = here
        payload["verification_uri_complete"] = f"{here}?user_code={payload['user_code']}"
        self._log.append("device", began=request.arrived_at, path=request.path, status=200)
        return Answer.json(200, payload, _NO_STORE)

    def _device(self, request: Request, fields: Mapping[str, str]) -> Answer:
        user_code = fields.get("user_code", "")
        decision = fields.get("decision") if request.method == "POST" else None
        if decision is None:
            return _login_page("/device", {}, "", user_code)
        subject = (fields.get("username") or "somebody") if decision == "allow" else None
        if not self._authorizations.decide(user_code, subject):
            return _page(400, "No device waits under this code", "<p>Look at it again.")
        return _page(200, "Done", "<p>Go back to your device.")


def _fields(request: Request) -> dict[str, str]:
    """Read the query, and over it the form."""
    pairs = parse_qsl(urlsplit(request.target).query, keep_blank_values=True)
    if request.method == "POST":
        pairs += parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return dict(pairs)


def _is_loopback(uri: str) -> bool:
    """Say whether ``uri`` is a redirect of RFC 8252 section 7.3, whose port may be any."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")


def _redirect(uri: str, fields: Mapping[str, str]) -> Answer:
    joint = "&" if urlsplit(uri).query else "?"
    return Answer(303, {"Location": uri + joint + urlencode(fields), **_NO_STORE})


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
    asked = f"<p>It asks for: {html.escape(scope)}" if scope else ""
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
    return Answer(status, {"Content-Type": "text/html; charset=utf-8", **_NO_STORE}, text.encode())
