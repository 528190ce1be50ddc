"""P12, P13: sessions can be pickled to other processes and used there; pickles hold no secret."""

from __future__ import annotations

import base64
import concurrent.futures
import copy
import io
import multiprocessing
import pickle
from pathlib import Path

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from wire import bearer_of, manager_of, session_of

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    TokenManager,
    without_token,
)
from requests_silent_refresh.keys import default_key_file


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "keys"))
    return default_key_file()


@pytest.fixture
def store(tmp_path, key):
    return EncryptedFileStore(tmp_path / "tokens")


@pytest.fixture
def manager(server, store):
    return manager_of(server, store=store)


def is_forbidden(response):
    """An ``is_rejected`` that can be pickled."""
    return response.status_code == 403


def is_open(request):
    """A ``skip`` that can be pickled."""
    return request.path_url.startswith("/open")


def fetch(session, url):
    """Get ``url`` in another process; return the status and those of the history."""
    response = session.get(url, timeout=20)
    return response.status_code, [r.status_code for r in response.history]


class Plain(BaseAdapter):
    """A transport that can be pickled and answers with a status of its own."""

    def send(self, request, **how):
        response = requests.Response()
        response.status_code = 299
        response.url = request.url
        response.raw = io.BytesIO()
        return response

    def close(self):
        pass


def test_a_session_is_pickled_to_a_spawned_process(server, session):
    """P1, P13: it refreshes there after a revocation, and the parent adopts the new token."""
    session.headers["X-Mine"] = "yes"
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        assert pool.submit(fetch, session, server.resource).result(60) == (200, [])
        server.revoke_access_tokens()
        assert pool.submit(fetch, session, server.resource).result(60) == (200, [401])
    assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 1
    assert server.counters.reuse_detections == 0


def test_every_setting_survives(server, manager):
    """P13: every argument of the constructor, including those for ``HTTPAdapter``."""
    adapter = SilentRefreshAdapter(
        manager,
        [server.url, "https://api.example.com"],
        is_rejected=is_forbidden,
        skip=is_open,
        header="X-Token",
        scheme="",
        pool_maxsize=7,
        pool_block=True,
        max_retries=3,
    )
    twin = pickle.loads(pickle.dumps(adapter))
    assert twin.origins == adapter.origins
    assert twin.max_retries.total == 3
    pools = twin.poolmanager.connection_pool_kw
    assert (pools["maxsize"], pools["block"]) == (7, True)
    heard, bearer = [], bearer_of(manager)
    server.on("/resource", lambda r, a: heard.append(r.headers["X-Token"]) or a.but(status=200))
    server.on("/open", lambda r, a: heard.append(r.headers["X-Token"]))
    with requests.Session() as session:
        twin.mount_on(session)
        session.get(server.resource)
        session.get(server.url + "/open")
        server.on("/resource", lambda r, a: a.but(status=403))
        assert len(session.get(server.resource).history) == 2
    assert heard == [bearer, None]


@pytest.mark.parametrize("transport", [HTTPAdapter(pool_maxsize=3), Plain()])
def test_a_transport_is_pickled_with_the_adapter(transport, manager):
    """P13: if it can be pickled, like the other settings."""
    adapter = SilentRefreshAdapter(manager, "https://api.example.com", transport=transport)
    twin = pickle.loads(pickle.dumps(adapter))
    assert type(twin.transport) is type(transport)
    if isinstance(transport, Plain):
        with session_of(manager, "https://x.example") as session:
            twin.mount_on(session)
            assert session.get("https://api.example.com/").status_code == 299


def test_no_pickle_holds_a_token_or_a_key(server, session, manager, store, key):
    """P12: not even after use, when the store has both in memory."""
    response = session.get(server.resource)
    server.revoke_access_tokens()
    replayed = session.get(server.resource)
    token = manager.token()
    secrets = [token.access_token.reveal().encode(), token.refresh_token.reveal().encode()]
    encoded = Path(key.path).read_bytes().strip()
    # A Fernet signs with one half and encrypts with the other.
    halves = base64.urlsafe_b64decode(encoded)
    secrets += [encoded, halves[:16], halves[16:]]
    explicit = EncryptedFileStore(store.path, key)
    assert explicit.load().generation == 2
    adapter = session.get_adapter(server.url)
    for thing in [session, adapter, manager, store, explicit, key, response, replayed]:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(thing, protocol)
            assert not [secret for secret in secrets if secret in pickled]


def test_a_session_in_memory_cannot_be_pickled(server):
    """P12, P13: its tokens would be in the pickle. The error names a store to use."""
    session = session_of(manager_of(server, store=MemoryStore()), server.url)
    with pytest.raises(TypeError, match="EncryptedFileStore"):
        pickle.dumps(session)
    session.close()


def test_a_literal_secret_cannot_be_pickled(server, tmp_path):
    """P12: a grant's client secret would be in the pickle. The error says what to use instead."""
    grant = RefreshTokenGrant(server.token_endpoint, "client", "canary-secret")
    manager = TokenManager(
        grant, store=EncryptedFileStore(tmp_path / "tokens", key=b"k" * 43 + b"=")
    )
    with pytest.raises(TypeError, match="callable") as caught:
        pickle.dumps(session_of(manager, server.url))
    assert "canary" not in str(caught.value)


def test_without_token_survives(server, session):
    """P13: a pickled request that was prepared with it still carries no token."""
    prepared = session.prepare_request(
        requests.Request("GET", server.url + "/open", auth=without_token)
    )
    session.send(pickle.loads(pickle.dumps(prepared)))
    assert server.log.of("open", reason="authorization sent") == []
    session.get(server.url + "/open")
    assert len(server.log.of("open", reason="authorization sent")) == 1


def test_a_pickled_response_has_its_history(server, session):
    """P13: with the 401 and its body, and without the ``Authorization`` header."""
    server.revoke_access_tokens()
    twin = pickle.loads(pickle.dumps(session.get(server.resource)))
    assert [r.status_code for r in twin.history] == [401]
    assert twin.history[0].json() == {"message": "unauthorized"}
    assert "Authorization" not in twin.history[0].request.headers


def test_a_shallow_copy_of_a_session_shares_the_adapter(server, session):
    """P13: as a copy shares the adapters of requests."""
    twin = copy.copy(session)
    assert twin.get_adapter(server.url) is session.get_adapter(server.url)
    assert twin.get(server.resource).status_code == 200
