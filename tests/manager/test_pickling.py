"""P12, P13: sessions are pickled to other processes, without a secret, and go on there."""

from __future__ import annotations

import base64
import concurrent.futures
import copy
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
def manager(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "keys"))
    return manager_of(server, store=EncryptedFileStore(tmp_path / "tokens"))


def is_forbidden(response):
    """An ``is_rejected`` that can be pickled."""
    return response.status_code == 403


def is_open(request):
    """A ``skip`` that can be pickled."""
    return request.path_url.startswith("/open")


def fetch(session, url):
    """Get ``url`` in another process; return what can be compared."""
    response = session.get(url, timeout=20)
    return response.status_code, [r.status_code for r in response.history]


class Plain(BaseAdapter):
    """A transport that can be pickled, and tells what it got by what it answers."""

    def send(self, request, **how):
        response = requests.Response()
        response.status_code = 299
        response.url = request.url
        response._content = b""
        return response

    def close(self):
        pass


def test_a_session_is_pickled_to_a_spawned_process(server, session):
    """P1, P13: it has its token, gets through a revocation there, and the parent adopts that."""
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
    """P13: what the constructor was given, requests' own options too."""
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
    assert twin._pool_maxsize == 7
    assert twin._pool_block is True
    heard = []
    server.on("/resource", lambda r, a: heard.append(r.headers["X-Token"]) or a.but(status=200))
    server.on("/open", lambda r, a: heard.append(r.headers["X-Token"]))
    with requests.Session() as session:
        twin.mount_on(session)
        session.get(server.resource)
        session.get(server.url + "/open")
        server.on("/resource", lambda r, a: a.but(status=403))
        assert len(session.get(server.resource).history) == 2
    assert heard == [bearer_of(manager), None]


@pytest.mark.parametrize("transport", [HTTPAdapter(pool_maxsize=3), Plain()])
def test_a_transport_that_can_be_pickled_is_taken_along(transport, manager):
    """P13: ``transport`` is a setting like the others."""
    adapter = SilentRefreshAdapter(manager, "https://api.example.com", transport=transport)
    twin = pickle.loads(pickle.dumps(adapter))
    assert type(twin.transport) is type(transport)
    if isinstance(transport, Plain):
        with session_of(manager, "https://x.example") as session:
            twin.mount_on(session)
            assert session.get("https://api.example.com/").status_code == 299


def test_no_pickle_holds_a_token(server, session, manager):
    """P12: no token and no key, though all that is pickled was used: the store has both in hand."""
    response = session.get(server.resource)
    server.revoke_access_tokens()
    replayed = session.get(server.resource)
    token = manager.token()
    secrets = [token.access_token.reveal().encode(), token.refresh_token.reveal().encode()]
    key = Path(default_key_file().path).read_bytes().strip()
    signs_and_encrypts = base64.urlsafe_b64decode(key)  # the halves that a Fernet holds
    secrets += [key, signs_and_encrypts[:16], signs_and_encrypts[16:]]
    things = [session, session.get_adapter(server.url), manager, response, replayed]
    for thing in [*things, manager._store, manager._store._file._keys._source]:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(thing, protocol)
            assert not [secret for secret in secrets if secret in pickled]


def test_a_session_in_memory_refuses_and_says_what_to_give(server):
    """P12, P13: tokens in memory would have to be in the pickle."""
    session = session_of(manager_of(server, store=MemoryStore()), server.url)
    with pytest.raises(TypeError, match="EncryptedFileStore"):
        pickle.dumps(session)
    session.close()


def test_a_literal_secret_refuses_and_says_what_to_give(server, tmp_path):
    """P12: a client secret that is written into the grant would be in the pickle."""
    grant = RefreshTokenGrant(server.token_endpoint, "client", "canary-secret")
    manager = TokenManager(
        grant, store=EncryptedFileStore(tmp_path / "tokens", key=b"k" * 43 + b"=")
    )
    with pytest.raises(TypeError, match="callable") as caught:
        pickle.dumps(session_of(manager, server.url))
    assert "canary" not in str(caught.value)


def test_the_mark_of_without_token_survives(server, session):
    """P13: a prepared request that carries none, carries none in another process either."""
    prepared = session.prepare_request(
        requests.Request("GET", server.url + "/open", auth=without_token)
    )
    session.send(pickle.loads(pickle.dumps(prepared)))
    assert server.log.of("open", reason="authorization sent") == []
    session.get(server.url + "/open")
    assert len(server.log.of("open", reason="authorization sent")) == 1


def test_a_pickled_response_has_its_history(server, session):
    """P13: with the 401, whose body can be read; and nothing of the wire."""
    server.revoke_access_tokens()
    twin = pickle.loads(pickle.dumps(session.get(server.resource)))
    assert [r.status_code for r in twin.history] == [401]
    assert twin.history[0].json() == {"message": "unauthorized"}
    assert "Authorization" not in twin.history[0].request.headers


def test_a_shallow_copy_of_a_session_shares_the_adapter(server, session):
    """P13: as it does of requests' own."""
    twin = copy.copy(session)
    assert twin.get_adapter(server.url) is session.get_adapter(server.url)
    assert twin.get(server.resource).status_code == 200
