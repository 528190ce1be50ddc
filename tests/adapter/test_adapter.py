"""The adapter between a session and its API: what it sends, returns, raises and refuses."""

from __future__ import annotations

import contextlib
import io
import pickle
import ssl
import threading
import time
import uuid
import warnings

import pytest
import requests
import responses
import trustme
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import InsecureRequestWarning
from urllib3.util import Retry
from wire import at_once, bearer_of, manager_of, session_of

from requests_silent_refresh import (
    InsecureTransport,
    Origin,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshAdapter,
    Token,
    TokenManager,
    without_token,
)
from requests_silent_refresh.adapter import resend
from requests_silent_refresh.testing import AuthorizationServer

API = "https://api.example.com"


def manager_with(*tokens, **options):
    """Return a manager with the first token, whose refreshes return the others."""
    later = iter(tokens[1:])
    manager = TokenManager(lambda token: next(later), refresh_ahead=0, **options)
    manager.sign_in(Token(tokens[0]) if isinstance(tokens[0], str) else tokens[0])
    return manager


class Stub(BaseAdapter):
    """A transport that answers at once and records the requests it is given."""

    def __init__(self, status=200):
        super().__init__()
        self.status = status
        self.seen = []
        self.closed = False

    def send(self, request, **how):
        self.seen.append(request)
        response = requests.Response()
        response.status_code = self.status
        response.url = request.url
        response.request = request
        response.raw = io.BytesIO()
        return response

    def close(self):
        self.closed = True


# -- what is sent -------------------------------------------------------------


def test_a_request_carries_the_token(server, session, manager):
    """P2: the server accepts the request, and no exchange was needed."""
    answer = session.get(server.resource, params={"a": "1"}, headers={"X-Mine": "yes"}).json()
    assert answer["headers"]["x-mine"] == "yes"
    assert answer["query"] == {"a": ["1"]}
    assert server.counters.exchanges == 0


def test_the_response_shows_the_callers_request(server, session):
    """P12, P13: ``response.request`` is the caller's own object, without the token."""
    prepared = session.prepare_request(requests.Request("GET", server.resource))
    before = dict(prepared.headers)
    response = session.send(prepared)
    assert response.request is prepared
    assert dict(prepared.headers) == before
    assert "Authorization" not in prepared.headers


def test_a_prepared_request_may_be_sent_again_after_its_token_ended(server, session):
    """P13: sending the caller's request does not change it."""
    prepared = session.prepare_request(requests.Request("POST", server.resource, data=b"body"))
    for _ in range(3):
        server.revoke_access_tokens()
        assert session.send(prepared).json()["body_length"] == 4
    assert server.counters.exchanges == 3


def test_one_prepared_request_from_eight_threads_at_once(server, manager):
    """P1, P13: eight threads send the same object while the token is revoked; all succeed."""
    session = session_of(manager, server.url, pool_maxsize=8)
    prepared = session.prepare_request(
        requests.Request("POST", server.resource, json={"a": 1}, cookies={"b": "2"})
    )
    server.gate(8, then=server.revoke_access_tokens)
    outcomes = at_once(8, lambda n: session.send(prepared))
    assert [o.status_code for o in outcomes] == [200] * 8
    assert all(o.request is prepared for o in outcomes)
    assert all(o.json()["body_length"] == 8 for o in outcomes)
    assert "Authorization" not in prepared.headers
    assert server.counters.exchanges == 1
    session.close()


@pytest.mark.parametrize(
    ("header", "scheme", "sent"),
    [
        ("Authorization", "Bearer", "Bearer tok"),
        ("Authorization", "DPoP", "DPoP tok"),
        ("X-Api-Token", "", "tok"),
        ("PRIVATE-TOKEN", "", "tok"),
    ],
)
def test_the_header_and_the_scheme_can_be_set(header, scheme, sent):
    """P13: ``header`` and ``scheme`` set how the token is sent; an empty scheme sends it bare."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub, header=header, scheme=scheme)
    session.get(API + "/me")
    assert stub.seen[0].headers[header] == sent


@pytest.mark.parametrize("spelling", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("kind", [CaseInsensitiveDict, dict])
def test_the_adapter_replaces_its_header(kind, spelling):
    """P13: a header set by an old script is replaced, not doubled, in any case and mapping."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub)
    prepared = session.prepare_request(requests.Request("GET", API))
    prepared.headers = kind({spelling: "Basic old", "X-Mine": "kept"})
    session.send(prepared)
    assert {k.lower(): v for k, v in stub.seen[0].headers.items()} == {
        "authorization": "Bearer tok",
        "x-mine": "kept",
    }
    assert len(stub.seen[0].headers) == 2
    assert prepared.headers[spelling] == "Basic old"


def bare(headers):
    request = requests.PreparedRequest()
    request.headers = headers
    return request


def test_headers_are_copied_the_cheap_way(monkeypatch):
    """P14: no header is copied on its own, because the dictionary they are kept in is.

    If this fails, ``requests`` changed ``CaseInsensitiveDict``. The slow copy is then used,
    which is correct too.
    """
    headers = CaseInsensitiveDict({"A": "1", "C": "3"})
    with monkeypatch.context() as patch:
        patch.setattr(CaseInsensitiveDict, "__setitem__", None)
        copied = resend.with_header(bare(headers), "a", "2").headers
    copied["B"] = "4"
    assert dict(headers) == {"A": "1", "C": "3"}
    assert dict(copied) == {"a": "2", "C": "3", "B": "4"}
    assert copied == CaseInsensitiveDict({"A": "2", "B": "4", "C": "3"})
    assert vars(copied).keys() == vars(CaseInsensitiveDict()).keys()


def test_other_mappings_of_headers_are_copied_too():
    """P13: the application's subclass is copied through its public interface."""

    class Own(CaseInsensitiveDict):
        pass

    headers = Own({"A": "1"})
    assert dict(resend.with_header(bare(headers), "a", "2").headers) == {"a": "2"}
    assert dict(headers) == {"A": "1"}
    assert dict(resend.with_header(bare(None), "a", "2").headers) == {"a": "2"}
    plain = {"A": "1"}
    assert dict(resend.with_header(bare(plain), "a", "2").headers) == {"a": "2"}


def test_a_request_that_checks_its_headers_gets_complete_ones():
    """P13: the application's subclass may inspect the headers it is given."""

    class Own(requests.PreparedRequest):
        @property
        def headers(self):
            return self.own

        @headers.setter
        def headers(self, headers):
            self.own = CaseInsensitiveDict(headers or {})

    request = Own()
    request.prepare("GET", "https://api.example.com/", headers={"A": "1"})
    assert dict(resend.with_header(request, "B", "2").headers) == {"A": "1", "B": "2"}
    assert dict(request.headers) == {"A": "1"}


def test_a_forked_child_keeps_the_settings_of_its_connections(manager):
    """P11, P13: a certificate pinned in the parent is pinned in the child too."""

    class Own(SilentRefreshAdapter):
        __hash__ = None

    adapter = Own(manager, "https://api.example.com", pool_connections=3, pool_maxsize=5)
    proxies = adapter.proxy_manager_for("http://127.0.0.1:1")
    direct = adapter.poolmanager
    for pools in (direct, proxies):
        pools.connection_pool_kw["assert_fingerprint"] = "aa" * 32
        pools.connection_from_url("https://api.example.com")
    adapter.after_fork_in_child()
    for pools, childs in (
        (direct, adapter.poolmanager),
        (proxies, adapter.proxy_manager["http://127.0.0.1:1"]),
    ):
        assert (len(pools.pools), len(childs.pools)) == (1, 0)
        pool = childs.connection_from_url("https://api.example.com")
        assert pool is not pools.connection_from_url("https://api.example.com")
        assert type(pool) is type(pools.connection_from_url("https://api.example.com"))
        assert pool.assert_fingerprint == "aa" * 32
        assert pool.pool.maxsize == 5


def test_no_lock_is_taken_with_a_fresh_token(server, monkeypatch):
    """P14: a request succeeds while another thread holds every lock that the manager made."""
    locks = {}

    def keep(make):
        def made(*lock):
            one = make(*lock)
            locks[id(one)] = one
            for inner in lock:  # holding the Condition holds it
                locks.pop(id(inner), None)
            return one

        return made

    with monkeypatch.context() as patch:
        for kind in ("Lock", "RLock", "Condition"):
            patch.setattr(threading, kind, keep(getattr(threading, kind)))
        manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"))
    assert locks
    manager.sign_in(server.sign_in_token())
    session = session_of(manager, server.url)
    session.get(server.resource)
    done = threading.Event()

    def ask():
        assert session.get(server.resource).status_code == 200
        done.set()

    with contextlib.ExitStack() as held:
        for lock in locks.values():
            held.enter_context(lock)
        thread = threading.Thread(target=ask)
        thread.start()
        assert done.wait(10)
    thread.join()
    session.close()


# -- requests without a token ----------------------------------------------------


def test_without_token_leaves_the_callers_header_alone():
    """P13: ``auth=without_token`` sends what the caller wrote, or nothing."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub)
    session.get(API, auth=without_token)
    session.get(API, auth=without_token, headers={"Authorization": "Mine"})
    session.get(API)
    sent = [request.headers.get("Authorization") for request in stub.seen]
    assert sent == [None, "Mine", "Bearer tok"]


@pytest.mark.parametrize(
    "hooks",
    [None, {}, {"response": []}, {"response": None}, {"response": print}, {"other": [print]}],
)
def test_without_token_works_with_any_hooks(hooks):
    """P13: it works if the hooks are missing, empty or a bare callable."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub)
    request = requests.Request("GET", API).prepare()
    request.hooks = hooks
    adapter = session.get_adapter(API)
    adapter.send(request)
    original = request.copy()
    without_token(request)
    adapter.send(request)
    adapter.send(request.copy())
    adapter.send(original)
    sent = [r.headers.get("Authorization") for r in stub.seen]
    assert sent == ["Bearer tok", None, None, "Bearer tok"]


def test_the_mark_need_not_be_in_a_list():
    """P13: a hook that is the mark itself, without a list around it, marks the request too."""
    stub = Stub()
    request = without_token(requests.Request("GET", API).prepare())
    (mark,) = request.hooks["response"]
    request.hooks = {"response": mark}
    SilentRefreshAdapter(manager_with("tok"), API, transport=stub).send(request)
    assert "Authorization" not in stub.seen[0].headers


def test_skip_decides_per_request():
    """P13: ``skip`` is called with the caller's request and keeps the token off it."""
    stub = Stub()
    session = session_of(
        manager_with("tok"), API, transport=stub, skip=lambda r: r.path_url == "/open"
    )
    session.get(API + "/open")
    session.get(API + "/me")
    assert ["Authorization" in request.headers for request in stub.seen] == [False, True]


def test_a_401_to_a_request_without_a_token_is_returned(server, session):
    """P13: a request sent without a token is not replayed and starts no refresh."""
    assert session.get(server.resource, auth=without_token).status_code == 401
    assert server.counters.exchanges == 0


# -- what is rejected ----------------------------------------------------------------


def test_is_rejected_decides_otherwise(server, manager):
    """P2: with it, an API may answer an expired token with a bare 403."""
    server.on("/resource", lambda request, answer: answer.but(status=answer.status + 2))
    session = session_of(manager, server.url, is_rejected=lambda r: r.status_code == 403)
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert response.status_code == 202
    assert [r.status_code for r in response.history] == [403]
    session.close()


def test_a_401_that_asks_for_another_scope_is_returned(server, session):
    """P13: another token of this session would be rejected too, so there is no exchange."""
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    server.on("/resource", lambda request, answer: answer.but(status=401, headers=challenge))
    assert session.get(server.resource).status_code == 401
    assert server.counters.exchanges == 0


def test_an_is_rejected_that_raises_costs_no_connection(server, manager):
    """P8: its exception reaches the caller, and a pool of one gets its connection back."""

    def is_rejected(response):
        if response.status_code == 401:
            raise LookupError("mine")
        return False

    session = session_of(
        manager, server.url, is_rejected=is_rejected, pool_block=True, pool_maxsize=1
    )
    server.fault("resource", status=401, body=b"x" * 100_000)
    with pytest.raises(LookupError, match="mine") as caught:
        session.get(server.resource)
    assert session.get(server.resource, timeout=10).status_code == 200
    assert caught.value is not None  # so it is not the exception that released it
    session.close()


def test_an_is_rejected_may_read_the_body(server, manager):
    """P13: the caller can still read the body, of the 401 and of the final response."""
    session = session_of(manager, server.url, is_rejected=lambda r: b"unauthorized" in r.content)
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert response.json()["path"] == "/resource"
    assert response.history[0].json() == {"message": "unauthorized"}
    session.close()


def test_an_is_rejected_may_read_raw(server, manager):
    """P13: what it reads from ``raw`` is not there for the caller, as ever; nothing breaks."""
    session = session_of(
        manager, server.url, is_rejected=lambda r: r.status_code == 401 and r.raw.read()
    )
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert response.status_code == 200
    assert response.history[0].content == b""
    session.close()


def test_no_refresh_is_started_where_it_does_not_help(server, session):
    """Futile: after it rejected two fresh tokens in a row, a path's 401 is returned at once."""
    server.forbid("/resource/none")
    for _ in range(5):
        assert session.get(server.resource + "/none").status_code == 401
    assert server.counters.exchanges == 2
    assert server.counters.requests == 3 + 4


@pytest.mark.parametrize("status", [401, 403])
def test_at_most_two_replays_and_two_exchanges(server, manager, status):
    """P2, P8: an endpoint that rejects all tokens gets three requests; its answer is returned."""
    server.on("/resource", lambda request, answer: answer.but(status=status))
    session = session_of(manager, server.url, is_rejected=lambda r: r.status_code == status)
    response = session.get(server.resource)
    assert response.status_code == status
    assert [r.status_code for r in response.history] == [status] * 2
    assert server.counters.requests == 3
    assert server.counters.exchanges == 2
    session.close()


def test_a_token_that_had_to_be_fetched_first_counts(server):
    """P2, P8: a request that began with a refresh starts at most one more."""
    manager = manager_of(server, clock=lambda: time.time() + 7200)
    server.forbid("/resource")
    session = session_of(manager, server.url)
    assert session.get(server.resource).status_code == 401
    assert server.counters.exchanges == 2
    assert server.counters.requests == 2
    session.close()


def test_a_token_that_is_dead_on_arrival_is_replaced_once_more(server, session):
    """P2: the first fresh token is rejected, the second accepted, and the caller sees a 200."""
    server.revoke_access_tokens()
    first = []

    def also_revoke(request, answer):
        if not first:
            first.append(server.revoke_access_tokens())

    server.on("/token", also_revoke)
    response = session.get(server.resource)
    assert response.status_code == 200
    assert [r.status_code for r in response.history] == [401, 401]
    assert server.counters.exchanges == 2


# -- what is returned -------------------------------------------------------------------


def test_the_401_is_in_the_history(server, session):
    """P13: as with ``HTTPDigestAuth``. It shows the caller's request, and can be read."""
    server.revoke_access_tokens()
    response = session.get(server.resource)
    (rejected,) = response.history
    assert rejected.status_code == 401
    assert rejected.json() == {"message": "unauthorized"}
    assert rejected.request is response.request
    assert "Authorization" not in rejected.request.headers


def test_elapsed_includes_waiting(server, session):
    """P13: ``elapsed`` is the time that the caller waited, including the refresh."""
    server.latency = 0.2
    server.revoke_access_tokens()
    assert session.get(server.resource).elapsed.total_seconds() >= 0.2


def test_a_streamed_answer_streams(server, session):
    """P13: the body of a replayed request's response arrives as the server sends it."""
    server.revoke_access_tokens()
    rest = threading.Event()

    def slowly():
        yield b"first"
        assert rest.wait(10)
        yield b"second"

    def stream(request, answer):
        return answer if answer.status == 401 else answer.but(body=slowly())

    server.on("/resource", stream)
    with session.get(server.resource, stream=True) as response:
        pieces = response.iter_content(None)
        assert next(pieces) == b"first"
        rest.set()
        assert b"".join(pieces) == b"second"


def test_a_response_hook_that_sends_again_gets_a_token(server, session, manager):
    """P13: ``response.connection`` is the adapter, so a hook's request through it is renewed."""
    seen = []

    def again(response, **how):
        if not seen:
            seen.append(response.status_code)
            server.revoke_access_tokens()
            second = response.connection.send(response.request.copy(), **how)
            second.history.append(response)
            return second
        return response

    response = session.get(server.resource, hooks={"response": again})
    assert isinstance(response.connection, SilentRefreshAdapter)
    assert response.status_code == 200
    assert [r.status_code for r in response.history] == [401, 200]
    assert server.counters.requests == 3
    assert "Authorization" not in response.request.headers


def test_hooks_see_the_final_response_only(server, session):
    """P13: a hook such as ``raise_for_status`` never sees a 401 that was replayed."""
    statuses = []
    session.hooks["response"].append(lambda response, **how: statuses.append(response.status_code))
    server.revoke_access_tokens()
    session.get(server.resource)
    assert statuses == [200]


# -- what it raises ----------------------------------------------------------------------


def test_a_failed_refresh_shows_the_request_and_the_401(server, session):
    """P7, P12: the exception holds the caller's request and a readable 401."""
    server.revoke_access_tokens()
    server.fault("token", status=503)
    with pytest.raises(RefreshUnavailable) as caught:
        session.post(server.resource, data=b"mine")
    assert caught.value.request.body == b"mine"
    assert "Authorization" not in caught.value.request.headers
    assert caught.value.response.status_code == 401
    assert caught.value.response.json() == {"message": "unauthorized"}
    assert caught.value.response.request is caught.value.request


def test_an_old_except_httperror_catches_a_dead_session(server, session, manager):
    """P7, P9: ``SessionExpired`` is an ``HTTPError`` whose response is a 401."""
    server.revoke_access_tokens()
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with pytest.raises(requests.HTTPError) as caught:
        session.get(server.resource)
    assert isinstance(caught.value, SessionExpired)
    assert caught.value.response.status_code == 401
    with pytest.raises(SessionExpired) as caught:
        session.get(server.resource)
    assert caught.value.request.url == server.resource
    with pytest.raises(SessionExpired) as caught:
        session.post(server.resource, data=iter([b"once"]))
    assert caught.value.request.url == server.resource
    assert caught.value.response.status_code == 401


def test_a_dead_session_has_a_401_of_its_own(server, session, manager):
    """P9, P12: nothing is sent, and an old script reads the 401 as it would the server's."""
    token = bearer_of(manager)
    manager.sign_out()
    sent = server.counters.requests
    with pytest.raises(requests.HTTPError) as caught:
        session.post(server.resource, data=b"mine")
    response = caught.value.response
    assert (response.status_code, response.reason, response.ok) == (401, "Unauthorized", False)
    assert (response.url, response.content, response.history) == (server.resource, b"", [])
    assert response.request is caught.value.request
    assert response.connection is session.get_adapter(server.resource)
    assert response.raw.read() == b""
    response.close()
    assert token not in str(vars(response)) + str(response.request.headers)
    assert server.counters.requests == sent
    assert pickle.loads(pickle.dumps(caught.value)).response is None


def test_a_failed_connection_shows_the_callers_request(session, server):
    """P12: requests' own exceptions hold the caller's request, not the copy with the token."""
    server.fault("resource", drop="before")
    with pytest.raises(requests.ConnectionError) as caught:
        session.get(server.resource)
    link = caught.value
    while link is not None:
        assert "Authorization" not in getattr(getattr(link, "request", None), "headers", {})
        link = link.__context__
    assert caught.value.request.url == server.resource


def test_the_whole_chain_of_a_transports_exceptions_is_cleaned(manager):
    """P12: neither a cause nor an exception's response shows the token."""

    class Failing(BaseAdapter):
        def send(self, request, **how):
            response = requests.Response()
            response.request = request
            try:
                raise requests.HTTPError("inner", response=response)
            except requests.HTTPError as error:
                loop = requests.RequestException("outer", request=request)
                error.__cause__ = loop  # chains may be circular
                raise loop from error

    session = session_of(manager, API, transport=Failing())
    with pytest.raises(requests.RequestException, match="outer") as caught:
        session.get(API)
    for holder in (caught.value, caught.value.__cause__, caught.value.__cause__.response):
        assert "Authorization" not in holder.request.headers


def test_an_error_raised_while_another_was_handled_is_cleaned(manager):
    """P12: the earlier exception shows no token either, though it is not called the cause."""

    class Failing(BaseAdapter):
        def send(self, request, **how):
            try:
                raise requests.ConnectionError("inner", request=request)
            except requests.ConnectionError:
                raise requests.Timeout("outer", request=request)  # noqa: B904 (the test is about it)

    session = session_of(manager, API, transport=Failing())
    with pytest.raises(requests.Timeout) as caught:
        session.get(API)
    assert "Authorization" not in caught.value.request.headers
    assert "Authorization" not in caught.value.__context__.request.headers


def test_an_adapter_above_another_shows_neither_token():
    """P12, P13: two adapters, two headers; neither history nor request shows either token."""
    stub = Stub()
    inner = SilentRefreshAdapter(
        manager_with("one", Token("two")),
        API,
        transport=stub,
        header="X-Service",
        is_rejected=lambda response: (
            response.request.headers.get("X-Service") is None and len(stub.seen) == 1
        ),
    )
    session = session_of(manager_with("user"), API, transport=inner)
    response = session.get(API)
    assert [r.headers["X-Service"] for r in stub.seen] == ["Bearer one", "Bearer two"]
    assert [r.headers["Authorization"] for r in stub.seen] == ["Bearer user"] * 2
    for shown in (response, *response.history):
        assert not {"Authorization", "X-Service"} & set(shown.request.headers)
    assert len(response.history) == 1


# -- construction ----------------------------------------------------------------------


@pytest.mark.parametrize("origins", [[], (), ["https://api.example.com/v1"], "api.example.com", ""])
def test_invalid_origins_are_refused(origins):
    """P11: at least one origin is needed, each with scheme and host only."""
    with pytest.raises(ValueError, match="origin"):
        SilentRefreshAdapter(manager_with("tok"), origins)


def test_origins_may_be_text_or_origin_objects():
    """P11: one, or several in any iterable."""
    adapter = SilentRefreshAdapter(
        manager_with("tok"), iter([API, Origin.parse("https://other.example.com:8443")])
    )
    assert {str(o) for o in adapter.origins} == {API, "https://other.example.com:8443"}
    assert SilentRefreshAdapter(manager_with("tok"), Origin.parse(API)).origins == {
        Origin.parse(API)
    }


@pytest.mark.parametrize(
    "below", [{}, {"transport": HTTPAdapter(max_retries=Retry(status_forcelist=[401]))}]
)
def test_retries_of_a_401_below_the_adapter_are_refused(below):
    """P13: urllib3 would resend the rejected token."""
    options = below or {"max_retries": Retry(3, status_forcelist=[401, 503])}
    with pytest.raises(ValueError, match="status_forcelist"):
        SilentRefreshAdapter(manager_with("tok"), API, **options)


def test_other_retries_are_allowed(server, manager):
    """P13: ``max_retries`` for a busy server works below the adapter as before."""
    session = session_of(
        manager, server.url, max_retries=Retry(2, status_forcelist=[503], backoff_factor=0)
    )
    server.fault("resource", status=503, times=2)
    server.revoke_access_tokens()
    assert session.get(server.resource).status_code == 200
    SilentRefreshAdapter(manager, API, max_retries=5)
    SilentRefreshAdapter(manager, API, transport=Stub())
    session.close()


def test_options_next_to_a_transport_are_refused():
    """A pool size that would be ignored raises ``ValueError``."""
    with pytest.raises(ValueError, match="pool_maxsize"):
        SilentRefreshAdapter(manager_with("tok"), API, transport=Stub(), pool_maxsize=9)


def test_closing_leaves_a_given_transport_open():
    """P13: the transport belongs to the caller."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub)
    session.close()
    assert not stub.closed


def test_closing_closes_its_own_connections(server, manager):
    """P13: the adapter's own pool is closed with the session."""
    session = session_of(manager, server.url)
    session.get(server.resource)
    assert server.wait_for(lambda: server.connections == 1)
    session.close()
    assert server.wait_for(lambda: server.connections == 0)


def test_plain_http_is_refused():
    """P11: a token is never sent where others can read it, unless that is allowed explicitly."""
    with pytest.raises(InsecureTransport, match="https"):
        SilentRefreshAdapter(manager_with("tok"), "http://intranet.example.com")


def test_plain_http_can_be_allowed_with_a_warning():
    """P11: the warning points to the line that passes ``allow_insecure_http``."""
    with pytest.warns(UserWarning, match="intranet") as caught:
        SilentRefreshAdapter(
            manager_with("tok"), [API, "http://intranet.example.com"], allow_insecure_http=True
        )
    assert [warning.filename for warning in caught] == [__file__]


def test_plain_http_is_allowed_on_loopback(recwarn):
    """P11: no other machine can read traffic on loopback."""
    SilentRefreshAdapter(manager_with("tok"), ["http://localhost:8080", "http://[::1]"])
    assert len(recwarn) == 0


@pytest.fixture
def secure_server():
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with (
        AuthorizationServer(tls=context) as server,
        authority.cert_pem.tempfile() as bundle,
    ):
        server.bundle = bundle
        yield server


def secure_session(server, origins):
    manager = TokenManager(lambda token: None)
    manager.sign_in(server.sign_in_token())
    return session_of(manager, origins)


def new_origin():
    """Return an origin that this process has not warned about yet."""
    return f"https://{uuid.uuid4().hex}.example.com"


def test_verify_false_is_honoured(secure_server):
    """P11: the request is sent to a server whose certificate is not checked, with a warning."""
    session = secure_session(secure_server, secure_server.url)
    with pytest.warns(InsecureRequestWarning):
        assert session.get(secure_server.resource, verify=False).status_code == 200
    assert session.get(secure_server.resource, verify=secure_server.bundle).status_code == 200
    session.close()


def test_verify_false_warns_once_per_origin():
    """P11: each origin has one warning of its own, which points to the line that sends."""
    first, second, verified = new_origin(), new_origin(), new_origin()
    session = session_of(manager_with("tok"), [first, second, verified], transport=Stub())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for url in [first] * 3 + [second + "/resource"] * 2:
            session.get(url, verify=False)
        session.get(verified)
    assert [str(w.message).split()[2] for w in caught] == [first, second]
    assert {w.category for w in caught} == {InsecureRequestWarning}
    assert all(w.filename.endswith("sessions.py") for w in caught)


def test_disabling_urllib3s_warnings_silences_ours(secure_server):
    """P11: an application that silenced urllib3's warning does not want ours either."""
    session = secure_session(secure_server, secure_server.url)
    unseen = session_of(manager_with("tok"), origin := new_origin(), transport=Stub())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        urllib3.disable_warnings()
        assert session.get(secure_server.resource, verify=False).status_code == 200
        unseen.get(origin, verify=False)
    assert caught == []
    session.close()


def test_a_warning_made_an_error_is_raised_each_time():
    """P11: with ``-W error`` the second request raises as well."""
    session = session_of(manager_with("tok"), origin := new_origin(), transport=Stub())
    for _ in range(2):
        with pytest.raises(InsecureRequestWarning, match="tokens for"):
            session.get(origin, verify=False)


def test_verify_false_without_a_token_does_not_warn(server, session):
    """P11: neither plain loopback nor a request without a token warns."""
    unmarked = session_of(manager_with("tok"), origin := new_origin(), transport=Stub())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.get(server.resource, verify=False)
        unmarked.get(origin, auth=without_token, verify=False)
        unmarked.get_adapter(origin).send(
            requests.Request("GET", new_origin()).prepare(), verify=False
        )


# -- mounting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [API, API + "/", API + ":443/x", "https://api.example.com./x", "HTTPS://API.example.com/"],
)
def test_mount_on_matches_every_spelling(url):
    """P11: mounted without a closing slash, the adapter matches ``:443`` and a trailing dot."""
    stub = Stub()
    session = session_of(manager_with("tok"), API, transport=stub)
    session.get(url)
    assert stub.seen[0].headers["Authorization"] == "Bearer tok"


def test_a_url_with_user_information_does_not_match():
    """P11: ``requests`` chooses another adapter, and no token is sent, as documented."""
    session = session_of(manager_with("tok"), API, transport=Stub())
    assert not isinstance(session.get_adapter("https://me@api.example.com/"), SilentRefreshAdapter)


def test_one_adapter_serves_several_origins_and_sessions(server, manager):
    """P13: the adapter is shared; each session keeps its own cookies and headers."""
    with AuthorizationServer() as other:
        adapter = SilentRefreshAdapter(manager, [server.url, other.url])
        for _ in range(2):
            with requests.Session() as session:
                adapter.mount_on(session)
                assert session.get(server.resource).status_code == 200
                assert session.get(other.url + "/open").status_code == 200
        assert len(other.log.of("open", reason="authorization sent")) == 2


@responses.activate
def test_under_responses_the_token_is_on_the_recorded_call():
    """P13: ``responses`` patches ``HTTPAdapter.send``, which the adapter sends through."""
    responses.get(API + "/me", status=401)
    responses.get(API + "/me", json={"name": "Ada"})
    session = session_of(manager_with("old", Token("new")), API)
    assert session.get(API + "/me").json() == {"name": "Ada"}
    assert [c.request.headers["Authorization"] for c in responses.calls] == [
        "Bearer old",
        "Bearer new",
    ]


def test_the_server_receives_the_managers_token(server, session, manager):
    """P2: the server receives the manager's current token (the control for the canary tests)."""
    heard = []
    server.on("/resource", lambda request, answer: heard.append(request.bearer))
    session.get(server.resource)
    assert heard == [bearer_of(manager)]
