"""Sessions that were started with another library, or with only a refresh token."""

from __future__ import annotations

import json

import pytest
import requests

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    SessionExpired,
    SilentRefreshAdapter,
    Token,
    TokenManager,
)
from requests_silent_refresh.keys import generate_key

# In the formats of the libraries: requests-oauthlib 2.0, Authlib 1.6, google-auth 2.40
# (Credentials.to_json, and the file that gcloud writes for it).
REQUESTS_OAUTHLIB = {
    "access_token": "at",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "rt",
    "scope": ["read", "write"],
    "expires_at": 1800000000.25,
}
AUTHLIB = {
    "access_token": "at",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "rt",
    "scope": "read write",
    "expires_at": 1800000000,
}
GOOGLE = {
    "token": "at",
    "refresh_token": "rt",
    "token_uri": "https://oauth2.googleapis.com/token",
    "client_id": "id.apps.googleusercontent.com",
    "client_secret": "google-client-secret",
    "scopes": ["read", "write"],
    "universe_domain": "googleapis.com",
    "account": "",
    "expiry": "2027-01-15T08:00:00.250000Z",
}
GCLOUD = {
    "account": "",
    "client_id": "id.apps.googleusercontent.com",
    "client_secret": "google-client-secret",
    "quota_project_id": "project",
    "refresh_token": "rt",
    "type": "authorized_user",
    "universe_domain": "googleapis.com",
}


@pytest.mark.parametrize(
    ("kept", "expires_at"),
    [(REQUESTS_OAUTHLIB, 1800000000.25), (AUTHLIB, 1800000000.0), (GOOGLE, 1800000000.25)],
    ids=["requests-oauthlib", "Authlib", "google-auth"],
)
def test_the_tokens_of_another_library_are_read(kept, expires_at):
    """P4: the tokens, their expiry and their scopes are imported."""
    token = Token.from_response(kept)
    assert token.access_token.reveal() == "at"
    assert token.refresh_token.reveal() == "rt"
    assert token.expires_at == expires_at
    assert token.scope == ("read", "write")


@pytest.mark.parametrize("kept", [GOOGLE, GCLOUD], ids=["google-auth", "gcloud"])
def test_a_clients_secret_is_not_kept_with_the_token(kept):
    """P12: google-auth writes the client's secret beside the token; it is not imported."""
    token = Token.from_response(kept)
    assert "google-client-secret" not in json.dumps(token.to_dict())
    assert token.extra["client_id"] == "id.apps.googleusercontent.com"


@pytest.mark.parametrize(
    "kept",
    [{"refresh_token": "rt"}, GCLOUD, GOOGLE | {"token": None}, AUTHLIB | {"access_token": ""}],
)
def test_a_refresh_token_alone_counts_as_expired(kept):
    """P2: a session without an access token is treated as one whose access token has expired."""
    token = Token.from_response(kept)
    assert token.refresh_token.reveal() == "rt"
    assert token.expires_at == 0.0
    again = Token.from_dict(token.to_dict())
    assert (again.expires_at, again.issued_at) == (0.0, None)


def test_standard_names_take_precedence():
    """P4: extra fields with the names that google-auth uses do not change a standard token."""
    kept = AUTHLIB | {"token": "else", "expiry": "never", "scopes": "all"}
    token = Token.from_response(kept)
    assert token.access_token.reveal() == "at"
    assert token.expires_at == 1800000000.0
    assert token.extra == {"token": "else", "expiry": "never", "scopes": "all"}


@pytest.mark.parametrize("payload", [{"refresh_token": "rt"}, GCLOUD])
def test_a_servers_answer_must_have_an_access_token(payload):
    """P4: a refresh token alone is accepted only on import, not in a token endpoint's answer."""
    with pytest.raises(ValueError, match="no access_token: it has the fields"):
        Token.from_response(payload, received_at=1.0)


@pytest.mark.parametrize("given", ["", {}, {"scope": "read"}, {"refresh_token": None}])
def test_a_sign_in_without_any_token_is_refused(given):
    """P9: a sign-in without a token raises a ValueError that says what is missing."""
    manager = TokenManager(RefreshTokenGrant("https://auth.example.com/token", "client"))
    with pytest.raises(ValueError, match="no access_token and no refresh_token"):
        manager.sign_in(given)
    assert not manager.signed_in


def test_a_malformed_refresh_token_is_not_shown():
    """P12: a refresh token followed by other text is rejected, and the message omits it."""
    manager = TokenManager(RefreshTokenGrant("https://auth.example.com/token", "client"))
    with pytest.raises(ValueError, match="refresh_token must be printable") as caught:
        manager.sign_in("canary-refresh\nnext line")
    ours = [entry.frame for entry in caught.traceback[1:]]
    assert len(ours) == 4
    assert "canary" not in str(caught.value) + repr([frame.f_locals for frame in ours])


@pytest.fixture
def store(tmp_path):
    return EncryptedFileStore(tmp_path / "tokens", key=generate_key())


@pytest.mark.parametrize("form", ["text", "mapping", "gcloud"])
def test_a_session_starts_from_a_refresh_token(server, store, form):
    """P1, P2: the refresh token is exchanged once before the first request, in any process."""
    refresh_token = server.sign_in()["refresh_token"]
    given = {
        "text": refresh_token,
        "mapping": {"refresh_token": refresh_token},
        "gcloud": GCLOUD | {"refresh_token": refresh_token},
    }
    TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store).sign_in(given[form])
    assert server.counters.exchanges == 0  # a sign-in makes no exchange

    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
    assert manager.signed_in
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url).mount_on(session)
        assert session.get(server.resource).status_code == 200
        assert session.post(server.resource, data=iter([b"once"])).status_code == 200
    assert (server.counters.exchanges, server.counters.rejected) == (1, 0)


def test_the_placeholder_access_token_is_never_sent(server, store):
    """P7: while the token endpoint is down, requests fail; none is sent with the placeholder."""
    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
    manager.sign_in(server.sign_in()["refresh_token"])
    server.fault("token", status=503, times=None)
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url).mount_on(session)
        for send in (session.get, lambda url: session.post(url, data=iter([b"once"]))):
            with pytest.raises(requests.RequestException, match="answered 503"):
                send(server.resource)
    assert server.counters.requests == 0


def test_an_unknown_refresh_token_ends_the_session(server, store):
    """P9: if the server does not know the refresh token, the session ends like any other."""
    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
    manager.sign_in("not-a-refresh-token")
    with pytest.raises(SessionExpired, match="invalid_grant"):
        manager.token()
    assert not manager.signed_in


def test_it_can_be_signed_out_before_its_first_use(server, store):
    """P9: the refresh token is revoked, even though there never was an access token."""
    grant = RefreshTokenGrant(
        server.token_endpoint, "client", revocation_endpoint=server.revocation_endpoint
    )
    manager = TokenManager(grant, store)
    manager.sign_in(server.sign_in()["refresh_token"])
    manager.sign_out()
    (revocation,) = server.log.of("revocation")
    assert revocation.reason is None
    assert not manager.signed_in
