"""Sign-in as the client itself: client credentials (RFC 6749 section 4.4)."""

from __future__ import annotations

from urllib.parse import urlencode

from ..token import Token
from .client import Client


def as_client(client: Client) -> Token:
    """Return a token for the client itself. Blocks and raises like :meth:`Client.redeem`."""
    from oauthlib.oauth2 import BackendApplicationClient

    protocol = BackendApplicationClient(client.client_id)
    body = protocol.prepare_request_body(scope=list(client.scope) or None, include_client_id=False)
    extra = urlencode(client.parameters)
    return client.redeem(f"{body}&{extra}" if extra else body)
