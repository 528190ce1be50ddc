"""Reads the claims of a JSON Web Token (RFC 7519), unverified: as a hint, or for display."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


def claims_of(text: object) -> dict[str, Any]:
    """Return the claims of a JWT; empty if ``text`` is not one. Never raises.

    They are not verified: use them as a hint or for display, never for a decision.
    """
    if not isinstance(text, str) or text.count(".") != 2:
        return {}
    body = text.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
