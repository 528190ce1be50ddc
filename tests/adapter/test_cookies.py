"""P13: the cookies of a 401 are kept and sent with the replay; the caller's own are kept."""

from __future__ import annotations

import pytest
import requests
from requests.cookies import extract_cookies_to_jar
from wire import manager_of, session_of


@pytest.fixture
def heard(server):
    """The ``Cookie`` header of each request; a 401 sets two cookies."""
    heard = []

    def answer(request, answer):
        heard.append(request.headers.get("Cookie"))
        if answer.status == 401:
            extra = [("Set-Cookie", "from401=a; Path=/"), ("Set-Cookie", "second=b; Path=/")]
            return answer.but(headers=[*answer.headers, *extra])
        return answer

    server.on("/resource", answer)
    return heard


@pytest.fixture
def session(server):
    with session_of(manager_of(server), server.url) as session:
        yield session


def pairs(header):
    return set(header.split("; ")) if header else set()


def test_cookies_of_the_401_are_sent_with_the_replay_and_kept(server, session, heard):
    """P13: so a load balancer can send the replay to the server that answered 401."""
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert pairs(heard[0]) == set()
    assert pairs(heard[1]) == {"from401=a", "second=b"}
    assert session.cookies.get_dict() == {"from401": "a", "second": "b"}
    assert response.history[0].cookies.get_dict() == {"from401": "a", "second": "b"}
    session.get(server.resource)
    assert pairs(heard[2]) == {"from401=a", "second=b"}


def test_the_sessions_cookies_are_sent_with_them(server, session, heard):
    """P13: a header built from the session's jar is built again with the new cookies."""
    session.cookies.set("mine", "c")
    server.revoke_access_tokens()
    session.get(server.resource, cookies={"once": "d"})
    assert pairs(heard[0]) == {"mine=c", "once=d"}
    assert pairs(heard[1]) == {"mine=c", "once=d", "from401=a", "second=b"}
    assert set(session.cookies.get_dict()) == {"mine", "from401", "second"}


def test_a_cookie_of_the_401_replaces_one_of_the_same_name(server, session, heard):
    """P13: the replay sends the new value."""
    session.cookies.set("from401", "old", domain="127.0.0.1", path="/")
    server.revoke_access_tokens()
    session.get(server.resource)
    assert pairs(heard[1]) == {"from401=a", "second=b"}


def test_a_cookie_header_that_the_caller_wrote_is_kept(server, session, heard):
    """P13: ``prepare_cookies`` does not change such a header, and neither does the replay."""
    server.revoke_access_tokens()
    session.get(server.resource, headers={"Cookie": "written=by-hand"})
    assert heard == ["written=by-hand"] * 2
    assert session.cookies.get_dict() == {"from401": "a", "second": "b"}


def test_the_callers_request_and_jar_are_unchanged(server, session, heard):
    """P13: cookies added for the replay are not added to the caller's request."""
    jar = requests.cookies.cookiejar_from_dict({"own": "e"})
    prepared = session.prepare_request(requests.Request("GET", server.resource, cookies=jar))
    before = dict(prepared.headers)
    server.revoke_access_tokens()
    session.send(prepared)
    assert pairs(heard[1]) == {"own=e", "from401=a", "second=b"}
    assert dict(prepared.headers) == before
    assert jar.get_dict() == {"own": "e"}
    # requests has no public name for a prepared request's jar, which redirects send from.
    assert prepared._cookies.get_dict() == {"own": "e"}


def test_a_request_without_a_jar_is_replayed_as_it_is(server, session, heard):
    """P13: a request that was prepared step by step may have none."""
    prepared = requests.PreparedRequest()
    prepared.prepare_method("GET")
    prepared.prepare_url(server.resource, None)
    prepared.prepare_headers({})
    server.revoke_access_tokens()
    assert session.get_adapter(server.url).send(prepared).status_code == 200
    assert heard == [None, None]


def test_a_401_without_cookies_changes_nothing(server, session):
    """P13: the replay then has exactly the caller's headers."""
    heard = []
    server.on("/resource", lambda request, answer: heard.append(sorted(request.headers.items())))
    session.cookies.set("mine", "c")
    server.revoke_access_tokens()
    session.get(server.resource)
    without = [[item for item in items if item[0] != "Authorization"] for items in heard]
    assert without[0] == without[1]


def test_cookies_are_kept_although_a_redirect_overwrites_the_history(server, session, heard):
    """P13: requests reads them from the history before it follows the redirect."""
    server.on(
        "/resource/go",
        lambda request, answer: (
            answer.but(headers={"Set-Cookie": "from401=a; Path=/"})
            if answer.status == 401
            else answer.but(status=302, headers={"Location": "/resource"})
        ),
    )
    server.revoke_access_tokens()
    response = session.get(server.resource + "/go")
    assert response.url == server.resource
    assert pairs(heard[0]) == {"from401=a"}


def test_the_401_of_a_failed_refresh_has_its_cookies(server, session, heard):
    """P13: the error's response holds them."""
    server.revoke_access_tokens()
    server.fault("token", status=503)
    with pytest.raises(requests.RequestException) as caught:
        session.get(server.resource)
    assert caught.value.response.cookies.get_dict() == {"from401": "a", "second": "b"}
    jar = requests.cookies.RequestsCookieJar()
    extract_cookies_to_jar(jar, caught.value.request, caught.value.response.raw)
    assert jar.get_dict() == {"from401": "a", "second": "b"}
