"""P11 over redirects: each hop is checked on its own."""

from __future__ import annotations

import contextlib
import ssl

import pytest
import requests
import trustme
from wire import Recorder, bearer_of, manager_of

from requests_silent_refresh import SilentRefreshAdapter, without_token
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def api():
    with Recorder() as api:
        yield api


@pytest.fixture
def stranger():
    with Recorder() as stranger:
        yield stranger


def broad(*adapters):
    """Return a session whose last adapter handles all that the others are not mounted for."""
    session = requests.Session()
    for adapter in adapters:
        adapter.mount_on(session)
    session.mount("http://", adapters[-1])
    session.mount("https://", adapters[-1])
    return session


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_hop_to_a_stranger_carries_no_token(status, manager, api, stranger):
    """P11: a broad mount does not add the header that requests removed."""
    api.redirects["/go"] = (status, stranger.url + "/there")
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        response = session.get(api.url + "/go")
    assert response.url == stranger.url + "/there"
    assert len(api.heard(bearer_of(manager))) == 1
    assert len(stranger.heads) == 1
    assert stranger.heard("Authorization") == []


def test_a_hop_back_carries_the_token(manager, api, stranger):
    """P11: of the hops api, stranger, api the first and the last carry it."""
    api.redirects["/go"] = stranger.url + "/middle"
    stranger.redirects["/middle"] = api.url + "/back"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        response = session.get(api.url + "/go")
    assert [r.url for r in response.history] == [api.url + "/go", stranger.url + "/middle"]
    assert len(api.heard(bearer_of(manager))) == 2
    assert stranger.heard("Authorization") == []
    for shown in (response, *response.history):
        assert "Authorization" not in shown.request.headers


@pytest.mark.parametrize(
    "location",
    [
        "{stranger}/",
        "//127.0.0.1:{port}/",
        "http://{api}@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@{api}/",
        "http://{api}\\@127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://127.0.0.1:0{port}/",
        "\thttp://127.0.0.1:{port}/",
        "http:\\\\127.0.0.1:{port}/",
    ],
)
def test_no_shape_of_a_location_takes_it_to_a_stranger(location, manager, api, stranger):
    """P11: a ``Location`` from the API, or from a server that poses as it, is not trusted."""
    api.redirects["/go"] = location.format(
        stranger=stranger.url, port=stranger.port, api=api.url.removeprefix("http://")
    )
    with (
        broad(SilentRefreshAdapter(manager, api.url)) as session,
        contextlib.suppress(requests.RequestException, ValueError),
    ):
        session.get(api.url + "/go", timeout=5)
    assert stranger.heard(bearer_of(manager)) == []


def test_a_chain_of_strangers_receives_no_token(manager, api, stranger):
    """P11: in a long chain over four listeners, only the origin's own hops carry the token."""
    with Recorder() as third, Recorder() as fourth:
        api.redirects["/0"] = "/1"
        api.redirects["/1"] = stranger.url + "/2"
        stranger.redirects["/2"] = third.url + "/3"
        third.redirects["/3"] = api.url + "/4"
        api.redirects["/4"] = fourth.url + "/5"
        with broad(SilentRefreshAdapter(manager, api.url)) as session:
            assert session.get(api.url + "/0").url == fourth.url + "/5"
        assert len(api.heard(bearer_of(manager))) == 3
        for listener in (stranger, third, fourth):
            assert len(listener.heads) == 1
            assert listener.heard("Authorization") == []


def test_a_hop_from_https_to_http_carries_no_token(manager, stranger):
    """P11: the same host over plain http is another origin."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with AuthorizationServer(tls=context) as secure, authority.cert_pem.tempfile() as bundle:
        own = manager_of(secure, refresh_ahead=0)
        secure.on(
            "/resource",
            lambda request, answer: answer.but(
                status=302, headers=[("Location", stranger.url + "/plain")]
            ),
        )
        with broad(SilentRefreshAdapter(own, secure.url)) as session:
            response = session.get(secure.resource, verify=bundle)
        assert response.url == stranger.url + "/plain"
        assert secure.counters.requests == 1
        assert len(stranger.heads) == 1
        assert stranger.heard("Authorization") == []


def test_a_redirect_to_another_adapters_origin_carries_its_token(server, api):
    """P11: with two accounts and two adapters, each origin receives only its own token."""
    with AuthorizationServer() as other_server, Recorder() as other_api:
        one, two = manager_of(server), manager_of(other_server)
        api.redirects["/go"] = other_api.url + "/there"
        other_api.redirects["/there"] = api.url + "/back"
        with broad(
            SilentRefreshAdapter(two, other_api.url), SilentRefreshAdapter(one, api.url)
        ) as session:
            assert session.get(api.url + "/go").url == api.url + "/back"
        assert len(api.heard(bearer_of(one))) == 2
        assert len(other_api.heard(bearer_of(two))) == 1
        assert api.heard(bearer_of(two)) == other_api.heard(bearer_of(one)) == []


def test_a_401_after_a_redirect_to_another_adapters_origin_renews_its_token(server):
    """P1, P11: a 401 from the second origin refreshes only the second session."""
    with AuthorizationServer() as other:
        one, two = manager_of(server), manager_of(other)
        server.on(
            "/resource",
            lambda request, answer: answer.but(status=302, headers={"Location": other.resource}),
        )
        other.revoke_access_tokens()
        with broad(
            SilentRefreshAdapter(two, other.url), SilentRefreshAdapter(one, server.url)
        ) as session:
            assert session.get(server.resource).status_code == 200
        assert (server.counters.exchanges, other.counters.exchanges) == (0, 1)


def test_without_token_holds_on_every_hop(manager, api, stranger):
    """P13: ``PreparedRequest.copy`` keeps the mark, on a hop to a stranger and back."""
    api.redirects["/0"] = "/1"
    api.redirects["/1"] = stranger.url + "/2"
    stranger.redirects["/2"] = api.url + "/3"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        session.get(api.url + "/0", auth=without_token)
    assert len(api.heads) == 3
    assert api.heard("Authorization") == []


def test_skip_is_called_on_every_hop(manager, api):
    """P13: each hop is a request of its own, with its own URL."""
    api.redirects["/a"] = "/open/b"
    api.redirects["/open/b"] = "/c"
    asked = []

    def skip(request):
        asked.append(request.path_url)
        return request.path_url.startswith("/open")

    with broad(SilentRefreshAdapter(manager, api.url, skip=skip)) as session:
        session.get(api.url + "/a")
    assert asked == ["/a", "/open/b", "/c"]
    assert ["Authorization" in head for head in api.heads] == [True, False, True]


def test_a_header_of_another_name_is_not_sent_to_a_stranger(manager, api, stranger):
    """P11: requests removes only ``Authorization``, but the token is never on its request."""
    api.redirects["/go"] = stranger.url + "/there"
    with broad(SilentRefreshAdapter(manager, api.url, header="X-Api-Token", scheme="")) as session:
        session.get(api.url + "/go")
    assert len(api.heard(f"X-Api-Token: {bearer_of(manager)}")) == 1
    assert stranger.heard("X-Api-Token") == []


def test_the_callers_own_header_follows_requests_rules(manager, api, stranger):
    """P13: requests decides whether a redirect keeps the header that the caller set."""
    stranger.redirects["/0"] = "/1"
    stranger.redirects["/1"] = api.url + "/2"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        session.get(stranger.url + "/0", headers={"Authorization": "Mine", "X-Own": "kept"})
    assert len(stranger.heard("Authorization: Mine")) == 2
    assert api.heard("Authorization: Mine") == []
    assert len(api.heard(f"Bearer {bearer_of(manager)}")) == 1
    assert len(api.heard("X-Own: kept")) == 1


def test_a_401_before_a_redirect_is_replayed(server, manager, stranger):
    """P2, P13: the replay redirects; following it, requests overwrites the history."""
    server.on(
        "/resource/go",
        lambda request, answer: (
            answer
            if answer.status == 401
            else answer.but(status=302, headers={"Location": stranger.url + "/there"})
        ),
    )
    server.revoke_access_tokens()
    with broad(SilentRefreshAdapter(manager, server.url)) as session:
        response = session.get(server.resource + "/go")
    assert response.url == stranger.url + "/there"
    assert [r.status_code for r in response.history] == [302]
    assert stranger.heard("Authorization") == []


def test_redirects_that_are_not_followed_are_returned(manager, api):
    """P13: ``allow_redirects=False`` works as before."""
    api.redirects["/go"] = "/there"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        response = session.get(api.url + "/go", allow_redirects=False)
    assert response.is_redirect
    assert response.next.url == api.url + "/there"
    assert "Authorization" not in response.next.headers
