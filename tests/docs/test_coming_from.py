"""docs/coming-from-*.rst: two processes of each program, with an expired token."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import time

import msal
import pytest
import trustme
from pages import ROOT, blocks

from requests_silent_refresh.testing import Answer, AuthorizationServer

#: What msal asks for besides its own.
SCOPES = "read openid profile offline_access"

#: Whose session it is, as Entra says it: {"uid": "ada", "utid": "x"}.
CLIENT_INFO = "eyJ1aWQiOiAiYWRhIiwgInV0aWQiOiAieCJ9"

PAGES = sorted(path.stem for path in (ROOT / "docs").glob("coming-from-*.rst"))


@pytest.fixture
def place(tmp_path, request, authority):
    """A folder with the page's programs and an expired token; its server and environment."""
    page = request.node.callspec.params["page"]
    secret = "s3cret" if "google" in page else None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with (
        authority.cert_pem.tempfile() as bundle,
        AuthorizationServer(
            client_id="report", client_secret=secret, tls=tls if "msal" in page else None
        ) as server,
    ):
        names = []
        for block in blocks(f"docs/{page}.rst"):
            names.append(re.match(r"# (\w+\.py)\n", block)[1])
            (tmp_path / names[-1]).write_text(block)
        assert names == ["before.py", "session.py", "take_over.py", "after.py"]
        token = {**server.sign_in(SCOPES), "expires_in": -10, "expires_at": time.time() - 10}
        server.revoke_access_tokens()
        (tmp_path / "token.json").write_text(json.dumps(token))
        if "msal" in page:
            (tmp_path / "cache.json").write_text(msal_cache(server, token))
            publish(server, "/tenant")
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "API": server.url,
            "ISSUER": server.issuer + "/tenant",
            "TOKEN_ENDPOINT": server.token_endpoint,
            "REQUESTS_CA_BUNDLE": bundle,
            "OAUTHLIB_INSECURE_TRANSPORT": "1",
            "AUTHLIB_INSECURE_TRANSPORT": "1",
            "SECRET": "s3cret",
        }
        yield server, tmp_path, environment


@pytest.fixture(scope="module")
def authority():
    """A certificate authority; msal wants https even on loopback."""
    return trustme.CA()


def publish(server, tenant):
    """Publish the metadata below a path, without which msal accepts no issuer."""
    metadata = {
        "issuer": server.issuer + tenant,
        "token_endpoint": server.token_endpoint,
        "authorization_endpoint": server.authorization_endpoint,
    }
    place = tenant + "/.well-known/openid-configuration"
    server.on(place, lambda request, answer: Answer.json(200, metadata))


def msal_cache(server, token):
    """Return the cache that msal keeps after a sign-in whose access token has expired."""
    cache = msal.SerializableTokenCache()
    cache.add(
        {
            "client_id": "report",
            "scope": ["read"],
            "token_endpoint": server.token_endpoint,
            "response": {**token, "id_token_claims": {"sub": "ada"}, "client_info": CLIENT_INFO},
        }
    )
    return cache.serialize()


def started(program, folder, environment):
    """Start a program of the page."""
    return subprocess.Popen(
        [sys.executable, program],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process):
    """Return the process's exit code, output and errors."""
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.mark.parametrize("page", PAGES)
def test_the_program_before_loses_the_session(place, page):
    """The page's claim: the refresh token is sent more than once, and the session is revoked."""
    server, folder, environment = place
    with server.token_gate() as gate:
        processes = [started("before.py", folder, environment) for _ in range(2)]
        server.wait_for(lambda: gate.held >= 2, 30)
        gate.release()
        outcomes = [ended(process) for process in processes]
    assert server.counters.reuse_detections > 0, outcomes


@pytest.mark.parametrize("page", PAGES)
def test_the_program_after_keeps_it(place, page):
    """P1: one exchange for two processes with four threads each, and every request succeeds."""
    server, folder, environment = place
    assert ended(started("take_over.py", folder, environment)) == (0, "", "")
    with server.token_gate() as gate:
        processes = [started("after.py", folder, environment) for _ in range(2)]
        assert gate.arrived.wait(30)
        gate.release()
        outcomes = [ended(process) for process in processes]
    assert outcomes == [(0, "[200, 200, 200, 200]\n", "")] * 2
    assert (server.counters.exchanges, server.counters.reuse_detections) == (1, 0)
