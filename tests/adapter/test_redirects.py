"""P11 over redirects: each hop is checked by itself, whoever sends it on."""

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
    """Return a session whose last adapter gets everything that the others are not mounted for."""
    session = requests.Session()
    for adapter in adapters:
        adapter.mount_on(session)
    session.mount("http://", adapters[-1])
    session.mount("https://", adapters[-1])
    return session


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_hop_to_a_stranger_carries_no_token(status, manager, api, stranger):
    """P11: a broad mount does not put back the header that requests takes off."""
    api.redirects["/go"] = (status, stranger.url + "/there")
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        response = session.get(api.url + "/go")
    assert response.url == stranger.url + "/there"
    assert len(api.heard(bearer_of(manager))) == 1
    assert len(stranger.heads) == 1
    assert stranger.heard("Authorization") == []


def test_a_hop_back_carries_it(manager, api, stranger):
    """P11: api, stranger, api: the first and the last hop are ours, the middle one is not."""
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
    """P11: what the API, or who poses as it, writes into ``Location`` is no authority."""
    api.redirects["/go"] = location.format(
        stranger=stranger.url, port=stranger.port, api=api.url.removeprefix("http://")
    )
    with (
        broad(SilentRefreshAdapter(manager, api.url)) as session,
        contextlib.suppress(requests.RequestException, ValueError),
    ):
        session.get(api.url + "/go", timeout=5)
    assert stranger.heard(bearer_of(manager)) == []


def test_the_chain_of_strangers_hears_nothing(manager, api, stranger):
    """P11: of a long chain over four listeners only the origin's own hops carry the token."""
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


def test_https_to_http_never_carries_it(manager, stranger):
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


def test_a_redirect_into_anothers_origins_is_that_adapters_business(server, api):
    """P11: two accounts, two adapters: each origin hears its own token and no other."""
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


def test_a_401_behind_a_redirect_into_anothers_origins_renews_that_adapters_token(server):
    """P1, P11: the 401 of the second origin refreshes the second session only."""
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
    """P13: ``PreparedRequest.copy`` keeps the mark, over a stranger and back."""
    api.redirects["/0"] = "/1"
    api.redirects["/1"] = stranger.url + "/2"
    stranger.redirects["/2"] = api.url + "/3"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        session.get(api.url + "/0", auth=without_token)
    assert len(api.heads) == 3
    assert api.heard("Authorization") == []


def test_skip_is_asked_on_every_hop(manager, api):
    """P13: each hop is a request of its own, with a URL of its own."""
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


def test_a_header_of_another_name_stays_home_too(manager, api, stranger):
    """P11: requests takes only ``Authorization`` off a redirect; ours never is on the request."""
    api.redirects["/go"] = stranger.url + "/there"
    with broad(SilentRefreshAdapter(manager, api.url, header="X-Api-Token", scheme="")) as session:
        session.get(api.url + "/go")
    assert len(api.heard(f"X-Api-Token: {bearer_of(manager)}")) == 1
    assert stranger.heard("X-Api-Token") == []


def test_the_callers_own_header_follows_requests_rules(manager, api, stranger):
    """P13: a header that the caller gave a stranger is requests' to keep or to take off."""
    stranger.redirects["/0"] = "/1"
    stranger.redirects["/1"] = api.url + "/2"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        session.get(stranger.url + "/0", headers={"Authorization": "Mine", "X-Own": "kept"})
    assert len(stranger.heard("Authorization: Mine")) == 2
    assert api.heard("Authorization: Mine") == []
    assert len(api.heard(f"Bearer {bearer_of(manager)}")) == 1
    assert len(api.heard("X-Own: kept")) == 1


def test_a_401_before_a_redirect_is_made_good(server, manager, stranger):
    """P2, P13: the 401 stays in the history of the response that redirects."""
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


def test_redirects_that_are_not_followed_are_handed_back(manager, api):
    """P13: ``allow_redirects=False`` is as ever."""
    api.redirects["/go"] = "/there"
    with broad(SilentRefreshAdapter(manager, api.url)) as session:
        response = session.get(api.url + "/go", allow_redirects=False)
    assert response.is_redirect
    assert response.next.url == api.url + "/there"
    assert "Authorization" not in response.next.headers
