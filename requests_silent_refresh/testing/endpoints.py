"""The server's endpoints: token (RFC 6749), revocation (RFC 7009), and two JSON dialects."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote_plus

from .answers import NO_STORE, Answer, Request
from .sign_in_endpoints import SignInEndpoints
from .tokens import Arrival, Refused, TokenFamilies


class Endpoints:
    """Applies requests to the token families and turns the outcomes into answers.

    Has no state of its own. ``fault`` is the name of the fault that will change
    the answer; it is recorded in the event.
    """

    def __init__(
        self,
        families: TokenFamilies,
        sign_in: SignInEndpoints,
        client_id: str,
        client_secret: str | None,
    ) -> None:
        self._families = families
        self._sign_in = sign_in
        self._client_id = client_id
        self._client_secret = client_secret

    def describe(self, request: Request, fault: str | None) -> tuple[Arrival, str | None]:
        """Return an exchange's fields for the event, and the refresh token it presents."""
        if request.path.startswith("/json"):
            grant, presented = "json", _json_token(request)
        else:
            form = dict(request.form)
            grant, presented = form.get("grant_type", ""), form.get("refresh_token")
        return Arrival(request.arrived_at, request.path, grant, fault), presented

    def token(self, request: Request, fault: str | None) -> Answer:
        """Answer at the token endpoint (RFC 6749 sections 4.1.3, 4.4, 5 and 6; RFC 8628)."""
        form = dict(request.form)
        arrival, presented = self.describe(request, fault)
        grant = arrival.grant
        try:
            self._admit(request, form)
        except Refused as refusal:
            self._families.note("refused", arrival, presented, error=refusal.error)
            return _oauth_error(refusal.error)
        try:
            if self._sign_in.redeems(grant):
                return Answer.json(200, self._sign_in.token(request, grant, form), NO_STORE)
            if grant == "refresh_token" and presented:
                payload = self._families.exchange(presented, form.get("scope"), arrival)
                return Answer.json(200, payload, NO_STORE)
            if grant == "client_credentials" and self._client_secret is not None:
                payload = self._families.client_credentials(form.get("scope", ""), arrival)
                return Answer.json(200, payload, NO_STORE)
        except Refused as refusal:
            return _oauth_error(refusal.error)
        error = {
            "": "invalid_request",
            "refresh_token": "invalid_request",  # the refresh token is missing
            "client_credentials": "unauthorized_client",  # a public client (section 4.4)
        }.get(grant, "unsupported_grant_type")
        self._families.note("refused", arrival, presented, error=error)
        return _oauth_error(error)

    def revoke(self, request: Request, fault: str | None) -> Answer:
        """Answer at the revocation endpoint (RFC 7009 section 2)."""
        form = dict(request.form)
        try:
            self._admit(request, form)
        except Refused as refusal:
            return _oauth_error(refusal.error)
        if not form.get("token"):
            return _oauth_error("invalid_request")
        self._families.revoke(form["token"], request.arrived_at, request.path)
        return Answer(200)

    def json(self, request: Request, fault: str | None) -> Answer:
        """Answer in a JSON dialect, as many APIs do: flat, or nested under ``data``."""
        arrival, presented = self.describe(request, fault)
        if request.method != "POST" or presented is None:
            self._families.note("refused", arrival, None, error="invalid_request")
            return Answer.json(400, {"message": "send a JSON object with the refresh token"})
        try:
            payload = self._families.exchange(presented, None, arrival)
        except Refused:
            return Answer.json(401, {"message": "this refresh token is not valid"})
        if request.path.startswith("/json/nested"):
            return Answer.json(200, {"data": self._nested(request, payload)})
        renamed = {
            "access_token": "accessToken",
            "refresh_token": "refreshToken",
            "expires_in": "expiresIn",
        }
        flat = {renamed[name]: value for name, value in payload.items() if name in renamed}
        return Answer.json(200, flat)

    def _nested(self, request: Request, payload: dict[str, Any]) -> dict[str, Any]:
        """Give the lifetime as ``expires``: in seconds, or in the form ``?expires=`` asks for."""
        nested: dict[str, Any] = {
            k: v for k, v in payload.items() if k in ("access_token", "refresh_token")
        }
        if "expires_in" in payload:
            seconds = payload["expires_in"]
            until = self._families.now() + seconds
            nested["expires"] = {
                "iso": datetime.fromtimestamp(until, timezone.utc).isoformat(),
                "unix": until,
                "ms": seconds * 1000,
            }.get(request.query.get("expires", [""])[0], seconds)
        return nested

    def _admit(self, request: Request, form: dict[str, str]) -> None:
        """Check the form of a request and authenticate the client; raise ``Refused`` otherwise.

        RFC 6749 section 3.2 requires a POSTed form that repeats no field. The client
        is authenticated as in section 2.3.1.
        """
        kind = request.headers.get_content_type()
        if request.method != "POST" or kind != "application/x-www-form-urlencoded":
            raise Refused("invalid_request")
        if len(form) != len(request.form):
            raise Refused("invalid_request")
        header = request.headers.get("Authorization")
        client_id, client_secret = form.get("client_id"), form.get("client_secret")
        if header is not None:
            if client_secret is not None:  # two authentication methods in one request
                raise Refused("invalid_request")
            client_id, client_secret = _basic(header)
        expected = self._client_secret
        if client_id != self._client_id or (client_secret is None) != (expected is None):
            raise Refused("invalid_client")
        if expected is not None and not hmac.compare_digest(
            expected.encode(), (client_secret or "").encode()
        ):
            raise Refused("invalid_client")


def _basic(header: str) -> tuple[str | None, str | None]:
    """Read Basic credentials: id and secret, form-encoded, in base64 (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None, None
    client_id, colon, secret = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        return None, None
    return unquote_plus(client_id), unquote_plus(secret) or None


def _json_token(request: Request) -> str | None:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    for name in ("token", "refresh_token", "refreshToken"):
        if isinstance(body.get(name), str):
            return str(body[name])
    return None


def _oauth_error(error: str) -> Answer:
    """Answer with an error as in RFC 6749 section 5.2."""
    if error == "invalid_client":
        challenge = {"WWW-Authenticate": 'Basic realm="token endpoint"'}
        return Answer.json(401, {"error": error}, NO_STORE | challenge)
    return Answer.json(400, {"error": error}, NO_STORE)
