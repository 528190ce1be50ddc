"""The arms: this library and its peers, each used as its own documentation says.

An arm is made for one server and one signed-in token and gives ``get(url)``, a
function that any thread may call, on one session that all threads share.
``leeway`` is how many seconds before its end it takes a token for expired.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from requests_silent_refresh.testing import AuthorizationServer

CLIENT = ("client", "secret")
POOL = 1024
KEY = b"benchmarks" * 4 + b"keY="  # of nothing worth protecting

Get = Callable[[str], requests.Response]

#: Whether sessions look at the environment (netrc, proxies), as ``requests`` does by default.
trust_env = True

# Two peers refuse plain http unless they are told that it is a test.
os.environ.setdefault("OAUTHLIB_INSECURE_TRANSPORT", "1")
os.environ.setdefault("AUTHLIB_INSECURE_TRANSPORT", "1")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of getting through an expiry; ``make(server, answer)`` gives its ``get``.

    ``answer`` is the token endpoint's answer to the sign-in, with ``expires_at``.
    """

    name: str
    make: Callable[[AuthorizationServer, dict[str, Any]], Get]
    leeway: float = 0.0


class Address:
    """Where a server is that runs in another process, or nowhere."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.resource = url + "/resource"
        self.token_endpoint = url + "/token"


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
    """Plain ``requests`` with a fixed header: what everything else is measured against."""
    session = _session()
    session.headers["Authorization"] = "Bearer " + answer["access_token"]
    return session.get


def ours(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """This library, as its README says."""
    from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager

    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, *CLIENT))
    manager.sign_in(answer)
    session = _session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=POOL).mount_on(session)
    return session.get


def ours_in_a_file(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """This library with the session in a file, which processes share; ``answer["path"]``."""
    from requests_silent_refresh import (
        EncryptedFileStore,
        RefreshTokenGrant,
        SilentRefreshAdapter,
        TokenManager,
    )

    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, *CLIENT),
        store=EncryptedFileStore(answer["path"], key=KEY),
    )
    if not manager.signed_in:
        manager.sign_in({k: v for k, v in answer.items() if k != "path"})
    session = _session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=POOL).mount_on(session)
    return session.get


def _lock_snippet(recheck: bool) -> Callable[[AuthorizationServer, dict[str, Any]], Get]:
    """The snippet that everybody copies: a lock around the refresh."""

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
    """requests-oauth2client: a ``BearerToken`` renewed by its ``OAuth2Client``."""
    from requests_oauth2client import BearerToken, OAuth2AccessTokenAuth, OAuth2Client

    client = OAuth2Client(token_endpoint=server.token_endpoint, auth=CLIENT, testing=True)
    session = _session()
    session.auth = OAuth2AccessTokenAuth(
        client,
        BearerToken(
            access_token=answer["access_token"],
            refresh_token=answer["refresh_token"],
            expires_at=datetime.datetime.fromtimestamp(
                answer["expires_at"], tz=datetime.timezone.utc
            ),
        ),
    )
    return session.get


def google_auth(server: AuthorizationServer, answer: dict[str, Any]) -> Get:
    """google-auth: an ``AuthorizedSession`` with the user's ``Credentials``."""
    from google.auth.transport.requests import AuthorizedSession
    from google.oauth2.credentials import Credentials

    expiry = datetime.datetime.fromtimestamp(answer["expires_at"], tz=datetime.timezone.utc)
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
OURS_IN_A_FILE = Arm("requests_silent_refresh", ours_in_a_file)
ARMS = (FLOOR, OURS, *PEERS)
