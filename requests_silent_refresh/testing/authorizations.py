"""Authorization codes and device codes: what users were asked, and what they decided."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any

from .tokens import Refused, TokenFamilies

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_CODE_LIFETIME = 60.0  # seconds; RFC 6749 section 4.1.2 requires a short lifetime

# No vowels and no characters that are easily confused (RFC 8628 section 6.1).
_USER_CODE = "BCDFGHJKLMNPQRSTVWXZ"


@dataclasses.dataclass(eq=False)
class _Code:
    """An authorization code that was sent to a browser."""

    scope: str
    subject: str
    redirect_uri: str
    challenge: str
    expires_at: float
    granted: dict[str, Any] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(eq=False)
class _Device:
    """A device that waits for a user to enter its user code."""

    scope: str
    expires_at: float
    interval: float
    subject: str | None = None
    denied: bool = False
    redeemed: bool = False
    last_poll: float | None = None


class Authorizations:
    """The consents given by users. Thread-safe: one lock guards all of them.

    ``device_interval`` and ``device_code_lifetime`` (seconds) may be assigned
    at any time; they apply to devices that start afterwards.
    """

    def __init__(self, families: TokenFamilies, issuer: Callable[[], str], client_id: str) -> None:
        self.device_interval = 5.0
        self.device_code_lifetime = 600.0
        self._families = families
        self._issuer = issuer
        self._client_id = client_id
        self._codes: dict[str, _Code] = {}
        self._devices: dict[str, _Device] = {}
        self._user_codes: dict[str, _Device] = {}
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()

    def new_code(self, scope: str, subject: str, redirect_uri: str, challenge: str) -> str:
        """Record a consent given in a browser and return an authorization code for it."""
        code = "code-" + secrets.token_urlsafe(24)
        expires_at = self._families.now() + _CODE_LIFETIME
        with self._lock:
            self._codes[code] = _Code(scope, subject, redirect_uri, challenge, expires_at)
        return code

    def new_device(self, scope: str) -> dict[str, Any]:
        """Begin a device authorization; returns RFC 8628 section 3.2's answer without the URLs."""
        device_code = "device-" + secrets.token_urlsafe(24)
        letters = "".join(secrets.choice(_USER_CODE) for _ in range(8))
        lifetime, interval = self.device_code_lifetime, self.device_interval
        device = _Device(scope, self._families.now() + lifetime, interval)
        with self._lock:
            self._devices[device_code] = self._user_codes[letters] = device
        return {
            "device_code": device_code,
            "user_code": f"{letters[:4]}-{letters[4:]}",
            "expires_in": lifetime,
            "interval": interval,
        }

    def decide(self, user_code: str, subject: str | None) -> bool:
        """Authorize the device with ``user_code`` as ``subject``; ``None`` denies it.

        Returns ``False`` if no device is waiting with that code.
        """
        letters = "".join(c for c in user_code.upper() if c.isalnum())
        with self._lock:
            device = self._user_codes.get(letters)
            decided = device is not None and (device.denied or device.subject is not None)
            if device is None or decided or self._families.now() >= device.expires_at:
                return False
            device.subject, device.denied = subject, subject is None
            return True

    def redeem_code(self, form: dict[str, str]) -> dict[str, Any]:
        """Exchange an authorization code (RFC 6749 section 4.1.3, RFC 7636 section 4.6).

        Raises ``Refused``. A second use of a code revokes the tokens issued for the
        first (RFC 6749 section 4.1.2).
        """
        with self._lock:
            code = self._codes.get(form.get("code", ""))
            if code is None or self._families.now() >= code.expires_at:
                raise Refused("invalid_grant", "unknown" if code is None else "expired")
            if code.granted is not None:
                self._families.revoke(code.granted["refresh_token"], 0.0, "/token")
                raise Refused("invalid_grant", "reuse")
            if form.get("redirect_uri") != code.redirect_uri:
                raise Refused("invalid_grant", "another redirect_uri")
            if challenge_of(form.get("code_verifier", "")) != code.challenge:
                raise Refused("invalid_grant", "wrong code_verifier")
            code.granted = self._signed_in(code.scope, code.subject, "authorization_code")
            return code.granted

    def redeem_device(self, form: dict[str, str]) -> dict[str, Any]:
        """Answer a device's poll (RFC 8628 sections 3.4 and 3.5). Raises ``Refused``."""
        now = self._families.now()
        with self._lock:
            device = self._devices.get(form.get("device_code", ""))
            if device is None or device.redeemed:
                raise Refused("invalid_grant", "unknown")
            if now >= device.expires_at:
                raise Refused("expired_token")
            if device.denied:
                raise Refused("access_denied")
            last, device.last_poll = device.last_poll, now
            if last is not None and now - last < device.interval:
                device.interval += 5.0
                raise Refused("slow_down")
            if device.subject is None:
                raise Refused("authorization_pending")
            device.redeemed = True
            return self._signed_in(device.scope, device.subject, "device_code")

    def _signed_in(self, scope: str, subject: str, grant: str) -> dict[str, Any]:
        payload = self._families.sign_in(scope, grant)
        if "openid" in scope.split():
            claims = {"iss": self._issuer(), "aud": self._client_id, "sub": subject}
            parts = [_base64url(json.dumps(part).encode()) for part in ({"alg": "none"}, claims)]
            payload["id_token"] = f"{parts[0]}.{parts[1]}."
        return payload


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a code verifier (RFC 7636 section 4.2)."""
    return _base64url(hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
