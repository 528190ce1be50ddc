"""The arms: this library and its peers, each used as its own documentation describes.

An arm is created for one server and one signed-in token. It provides ``get(url)``, a
function that any thread may call, on one session that all threads share.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from requests_silent_refresh.testing import AuthorizationServer

CLIENT = ("client", "secret")
POOL = 1024
KEY = b"benchmarks" * 4 + b"keY="  # protects nothing of value

Get = Callable[[str], requests.Response]

#: Whether sessions read netrc and proxies from the environment, as ``requests`` does by default.
trust_env = True

# Two peers refuse plain http unless these are set.
os.environ.setdefault("OAUTHLIB_INSECURE_TRANSPORT", "1")
os.environ.setdefault("AUTHLIB_INSECURE_TRANSPORT", "1")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to handle an expiry; ``make(server, answer)`` returns its ``get``.

    ``answer`` is the token endpoint's answer to the sign-in, with ``expires_at``.
    ``leeway`` is the number of seconds before its end at which it treats a token as expired.
    """

    name: str
    make: Callable[[AuthorizationServer, dict[str, Any]], Get]
    leeway: float = 0.0


class Address:
    """The URLs of a server that runs in another process or does not exist."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.resource = url + "/resource"
        self.token_endpoint = url + "/token"


def signed_in(server: AuthorizationServer, lifetime: float = 3600.0) -> dict[str, Any]:
    """Sign in and return the token endpoint's answer, with ``expires_at`` from ``lifetime``."""
    return {**server.sign_in(), "expires_at": time.time() + lifetime}


def long_lived(access_token: str, refresh_token: str) -> dict[str, Any]:
    """Return the answer to a sign-in whose access token is valid for a day."""
    return {
        "access_token": access_token,
        "refresh_token": refresh_token,
        "token_type": "Bearer",
        "expires_at": time.time() + 86400,
    }


def _session(session: requests.Session | None = None) -> requests.Session:
    session = session or requests.Session()
    session.trust_env = trust_env
    adapter = HTTPAdapter(pool_maxsize=POOL)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _exchange(server: AuthorizationServer, refresh_token: str) -> dict[str, Any]:
    answer = requests.post(
        server.token_endpoint,
        data={"grant_type": "refresh_token", "refresh_token": refresh_token},
        auth=CLIENT,
        timeout=30,
    )
    answer.raise_for_status()
    payload: dict[str, Any] = answer.json()
    return payload


def floor(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """Plain ``requests`` with a fixed header: the baseline of all other arms."""
    session = _session()
    session.headers["Authorization"] = "Bearer " + answer["access_token"]
    return session.get


def ours(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """This library, as in its README; processes share the session if ``answer`` has a ``path``."""
    from requests_silent_refresh import (
        EncryptedFileStore,
        RefreshTokenGrant,
        SilentRefreshAdapter,
        TokenManager,
    )

    answer = dict(answer)
    path = answer.pop("path", None)
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, *CLIENT),
        store=EncryptedFileStore(path, key=KEY) if path else None,
    )
    if not manager.signed_in:
        manager.sign_in(answer)
    session = _session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=POOL).mount_on(session)
    return session.get


def _lock_snippet(recheck: bool) -> Callable[[AuthorizationServer, dict[str, Any]], Get]:
    """The common snippet: a lock around the refresh."""

    def make(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
        session = _session()
        token = dict(answer)
        lock = threading.Lock()

        def get(url: str) -> requests.Response:
            sent = token["access_token"]
            response = session.get(url, headers={"Authorization": f"Bearer {sent}"})
            if response.status_code == 401:
                with lock:
                    if not recheck or token["access_token"] == sent:
                        token.update(_exchange(server, token["refresh_token"]))
                sent = token["access_token"]
                response = session.get(url, headers={"Authorization": f"Bearer {sent}"})
            return response

        return get

    return make


def singleflight(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """singleflight-auth: ``get_token``, ``refresh``, one auth object on the session."""
    from singleflight_auth import RequestsSingleFlightAuth

    token = dict(answer)

    def refresh() -> str:
        token.update(_exchange(server, token["refresh_token"]))
        return str(token["access_token"])

    session = _session()
    session.auth = RequestsSingleFlightAuth(
        get_token=lambda: token["access_token"], refresh=refresh
    )
    return session.get


def requests_oauthlib(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """requests-oauthlib: ``auto_refresh_url`` and a ``token_updater``."""
    from requests_oauthlib import OAuth2Session

    saved: list[Any] = []
    session = OAuth2Session(
        CLIENT[0],
        token=dict(answer, expires_in=answer["expires_at"] - time.time()),
        auto_refresh_url=server.token_endpoint,
        auto_refresh_kwargs={"client_id": CLIENT[0], "client_secret": CLIENT[1]},
        token_updater=saved.append,
    )
    get: Get = _session(session).get
    return get


def authlib(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """Authlib: an ``OAuth2Session`` that knows its token endpoint."""
    from authlib.integrations.requests_client import OAuth2Session

    session = OAuth2Session(
        *CLIENT,
        token=dict(answer),
        token_endpoint=server.token_endpoint,
        update_token=lambda token, **old: None,
    )
    get: Get = _session(session).get
    return get


def oauth2client(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """requests-oauth2client: a ``BearerToken`` that its ``OAuth2Client`` renews."""
    from requests_oauth2client import BearerToken, OAuth2AccessTokenAuth, OAuth2Client

    client = OAuth2Client(token_endpoint=server.token_endpoint, auth=CLIENT, testing=True)
    session = _session()
    session.auth = OAuth2AccessTokenAuth(
        client,
        BearerToken(
            access_token=answer["access_token"],
            refresh_token=answer["refresh_token"],
            expires_at=datetime.fromtimestamp(answer["expires_at"], tz=timezone.utc),
        ),
    )
    return session.get


def google_auth(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """google-auth: an ``AuthorizedSession`` with the user's ``Credentials``."""
    from google.auth.transport.requests import AuthorizedSession
    from google.oauth2.credentials import Credentials

    expiry = datetime.fromtimestamp(answer["expires_at"], tz=timezone.utc)
    credentials = Credentials(
        answer["access_token"],
        refresh_token=answer["refresh_token"],
        token_uri=server.token_endpoint,
        client_id=CLIENT[0],
        client_secret=CLIENT[1],
        expiry=expiry.replace(tzinfo=None),
    )
    get: Get = _session(AuthorizedSession(credentials)).get
    return get


FLOOR = Arm("requests, fixed header", floor)
OURS = Arm("requests_silent_refresh", ours)
PEERS = (
    Arm("lock around the refresh", _lock_snippet(recheck=False)),
    Arm("lock and re-check", _lock_snippet(recheck=True)),
    Arm("singleflight-auth", singleflight),
    Arm("requests-oauthlib", requests_oauthlib),
    Arm("Authlib", authlib, leeway=60.0),
    Arm("requests-oauth2client", oauth2client, leeway=20.0),
    Arm("google-auth", google_auth, leeway=225.0),
)
ARMS = (FLOOR, OURS, *PEERS)
