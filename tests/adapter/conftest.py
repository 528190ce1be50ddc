"""Fixtures that several tests of the adapter use."""

from __future__ import annotations

import ssl

import pytest
import trustme

from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def mutual():
    """A server that requires a client certificate, its CA's file and a client's file."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("client@example.com")
    with (
        AuthorizationServer(tls=context) as server,
        authority.cert_pem.tempfile() as bundle,
        client.private_key_and_cert_chain_pem.tempfile() as cert,
    ):
        yield server, bundle, cert
