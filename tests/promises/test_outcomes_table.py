"""Each outcome of an exchange (DESIGN section 5), for one request and for a crowd."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from typing import Any

import pytest
from queue_kit import CROWD, Clock, Crowd, outcome_of, session_for, signed_in, until

from requests_silent_refresh import (
    MemoryStore,
    RefreshFailed,
    RefreshUnavailable,
    SessionExpired,
)
from requests_silent_refresh.testing import AuthorizationServer


@dataclasses.dataclass(frozen=True)
class Row:
    """One outcome: the fault that makes the server give it, and what each request then gets."""

    name: str
    fault: dict[str, Any] | None
    error: type[Exception] | None
    exchanges: int = 1
    """The number of exchanges for one batch, as counted by the server."""
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    grace: float = 0.0
    grant: dict[str, Any] = dataclasses.field(default_factory=dict)
    waits_at_least: float = 0.5
    """Minimum seconds until the next attempt."""

    def spoil(self, server):
        if self.fault is not None:
            server.fault("token", times=None, **self.fault)

    def __str__(self) -> str:
        return self.name


def oauth(status, error, description=None):
    body = {"error": error} | ({} if description is None else {"error_description": description})
    return {"status": status, "body": json.dumps(body)}


ROWS = [
    Row("granted", None, None),
    Row(
        "refused: invalid_grant",
        oauth(400, "invalid_grant", "revoked\x1b[31m by\nsomebody"),
        SessionExpired,
        attributes={
            "error": "invalid_grant",
            "error_description": "revoked [31m by somebody",
            "status_code": 400,
            "retry_after": None,
        },
    ),
    Row(
        "refused: said by classify",
        oauth(403, "invalid_request"),
        SessionExpired,
        grant={"classify": lambda answer: "refused" if answer.status == 403 else None},
    ),
    Row(
        "wrong set-up: invalid_client",
        oauth(401, "invalid_client"),
        RefreshFailed,
        attributes={"error": "invalid_client", "status_code": 401},
    ),
    Row("wrong set-up: 404", {"status": 404}, RefreshFailed, attributes={"status_code": 404}),
    Row("wrong set-up: a redirect", {"redirect": "/elsewhere"}, RefreshFailed),
    Row("unavailable: 503", {"status": 503}, RefreshUnavailable, attributes={"status_code": 503}),
    Row(
        "unavailable: 429 with Retry-After",
        {"status": 429, "headers": {"Retry-After": "100"}},
        RefreshUnavailable,
        waits_at_least=100,
    ),
    Row(
        "unavailable: Retry-After of a week",
        {"status": 503, "headers": {"Retry-After": "604800"}},
        RefreshUnavailable,
        waits_at_least=300,
    ),
    Row("unavailable: a firewall's 403", {"status": 403, "garbage": True}, RefreshUnavailable),
    Row("unavailable: a hotel's 200", {"garbage": True}, RefreshUnavailable),
    Row(
        "unavailable: no answer in time",
        {"status": 503, "delay": 5},
        RefreshUnavailable,
        grant={"timeout": 0.5},
    ),
    Row("ambiguous, then granted", {"drop": "after"}, None, exchanges=2, grace=60),
    Row("ambiguous twice", {"drop": "before"}, RefreshUnavailable, exchanges=2),
    Row(
        "ambiguous, no second try",
        {"drop": "before"},
        RefreshUnavailable,
        grant={"ambiguous_retry": False},
    ),
]


@pytest.fixture(params=ROWS, ids=str)
def row(request):
    return request.param


@dataclasses.dataclass
class Scene:
    row: Row
    server: AuthorizationServer
    clock: Clock
    store: MemoryStore
    manager: Any
    session: Any

    def get(self):
        return self.session.get(self.server.resource)

    def spoil(self):
        """Give the token endpoint the row's fault: for one answer if it recovers, else for all."""
        if self.row.name == "ambiguous, then granted":
            self.server.fault("token", **self.row.fault)
        else:
            self.row.spoil(self.server)

    @property
    def exchanges(self):
        return self.server.counters.exchanges

    def check(self, outcome, history=1):
        """Check the outcome of one request."""
        row = self.row
        if row.error is None:
            assert outcome.status_code == 200
            assert [r.status_code for r in outcome.history] == [401] * history
            return
        assert type(outcome) is row.error
        assert outcome.response.status_code == 401
        assert outcome.request.url == self.server.resource
        assert "Authorization" not in outcome.request.headers
        for name, value in row.attributes.items():
            assert getattr(outcome, name) == value, name


@pytest.fixture
def scene(row):
    clock, store = Clock(), MemoryStore()
    with AuthorizationServer(grace=row.grace) as server:
        manager = signed_in(server, grant=row.grant, store=store, monotonic=clock)
        with session_for(manager, server) as session:
            yield Scene(row, server, clock, store, manager, session)


def test_one_request(scene):
    """P7: one request gets the row's outcome for one exchange; only a refusal ends the session."""
    scene.server.revoke_access_tokens()
    scene.spoil()
    scene.check(outcome_of(scene.get))
    assert scene.exchanges == scene.row.exchanges
    assert scene.manager.stats.exchanges == 1
    refused = scene.row.error is SessionExpired
    assert scene.manager.signed_in is not refused
    assert (scene.store.load().token is None) is refused


def test_32_waiting_requests(scene):
    """P1, P6: 32 rejected requests share one exchange; each gets its own exception object."""
    scene.spoil()
    scene.server.gate(CROWD, then=scene.server.revoke_access_tokens)
    with scene.server.token_gate() as held:
        crowd = Crowd(scene.get)
        assert held.arrived.wait(10)
        until(lambda: scene.manager.stats.waits == CROWD)
    outcomes = crowd.outcomes()
    assert scene.exchanges == scene.row.exchanges
    for outcome in outcomes:
        scene.check(outcome)
    if scene.row.error is not None:
        assert len(set(map(id, outcomes))) == CROWD
        assert len({id(error.__cause__) for error in outcomes}) == 1
        assert len({id(error.__traceback__) for error in outcomes}) == CROWD
        assert len({id(error.request) for error in outcomes}) == CROWD


def test_a_straggler(scene):
    """P3, P6: a 401 that arrives after the outcome, for an older token, costs no exchange."""
    rejected, release = threading.Event(), threading.Event()

    def hold_the_401(request, answer):
        if answer.status == 401:
            rejected.set()
            assert release.wait(10)

    scene.server.on("/resource/late", hold_the_401)
    scene.server.revoke_access_tokens()
    straggler = Crowd(lambda: scene.session.get(scene.server.resource + "/late"), size=1)
    assert rejected.wait(10)
    scene.spoil()
    scene.check(outcome_of(scene.get))
    release.set()
    (outcome,) = straggler.outcomes()
    assert scene.exchanges == scene.row.exchanges
    if scene.row.error is None:
        assert outcome.status_code == 200
    else:
        assert type(outcome) is scene.row.error


def test_a_new_request_later(scene):
    """P6, P7, P9: the same error until the backoff ends; the next attempt may then succeed."""
    scene.server.revoke_access_tokens()
    scene.spoil()
    with contextlib.suppress(SessionExpired, RefreshFailed, RefreshUnavailable):
        scene.get()
    exchanges = scene.exchanges

    if scene.row.error is None:
        assert scene.get().history == []
        assert scene.exchanges == exchanges
        return

    outcome = outcome_of(scene.get)
    assert type(outcome) is scene.row.error
    assert scene.exchanges == exchanges
    scene.server.clear_faults()

    if scene.row.error is SessionExpired:
        scene.clock.advance(1_000_000)
        assert type(outcome_of(scene.get)) is SessionExpired
        assert scene.exchanges == exchanges
        scene.manager.sign_in(scene.server.sign_in_token())
        assert scene.get().history == []
        return

    assert scene.row.waits_at_least <= outcome.retry_after <= max(1.0, scene.row.waits_at_least)
    scene.clock.advance(outcome.retry_after - 0.01)
    later = outcome_of(scene.get)
    assert type(later) is scene.row.error
    assert later.retry_after == pytest.approx(0.01, abs=0.001)
    assert scene.exchanges == exchanges
    scene.clock.advance(0.02)
    assert scene.get().status_code == 200
    assert scene.exchanges == exchanges + 1


# -- futile ---------------------------------------------------------------------


@pytest.fixture
def forbidden():
    clock = Clock()
    with AuthorizationServer() as server:
        manager = signed_in(server, monotonic=clock)
        with session_for(manager, server) as session:
            server.forbid("/resource/forbidden")
            yield Scene(Row("futile", None, None), server, clock, None, manager, session)


def get_forbidden(scene):
    return scene.session.get(scene.server.resource + "/forbidden")


def test_futile_one_request(forbidden):
    """Futile: the first rejected fresh token never counts; after the second the 401 is returned."""
    response = get_forbidden(forbidden)
    assert response.status_code == 401
    assert [r.status_code for r in response.history] == [401, 401]
    assert response.json() == {"message": "unauthorized"}
    assert forbidden.exchanges == 2


def test_futile_32_waiting_requests(forbidden):
    """Futile, P1: 32 requests to a path that rejects every token cost as many exchanges as one."""
    forbidden.server.gate(CROWD)
    crowd = Crowd(lambda: get_forbidden(forbidden))
    assert crowd.kinds() == {401: CROWD}
    assert forbidden.exchanges == 2


def test_futile_a_straggler(forbidden):
    """Futile: a late 401 costs no exchange; it is replayed once and then returned."""
    rejected, release = threading.Event(), threading.Event()

    def hold_the_first(request, answer):
        if not rejected.is_set():
            rejected.set()
            assert release.wait(10)

    forbidden.server.on("/resource/forbidden", hold_the_first)
    straggler = Crowd(lambda: get_forbidden(forbidden), size=1)
    assert rejected.wait(10)
    assert get_forbidden(forbidden).status_code == 401
    assert forbidden.exchanges == 2
    release.set()
    assert straggler.kinds() == {401: 1}
    assert forbidden.exchanges == 2


def test_futile_a_new_request_later(forbidden):
    """Futile: no exchange while the path is muted, one afterwards, none for accepting paths."""
    get_forbidden(forbidden)
    for _ in range(10):
        assert get_forbidden(forbidden).history == []
        assert forbidden.get().history == []
    assert forbidden.exchanges == 2
    forbidden.clock.advance(6)
    assert [r.status_code for r in get_forbidden(forbidden).history] == [401]
    assert forbidden.exchanges == 3
    assert get_forbidden(forbidden).history == []
    forbidden.server.allow("/resource/forbidden")
    assert get_forbidden(forbidden).status_code == 200


# -- while the token is still valid ------------------------------------------------


@pytest.mark.parametrize("row", [r for r in ROWS if r.error not in (None, SessionExpired)], ids=str)
def test_a_valid_token_is_used_whatever_the_endpoint_answers(row):
    """P7, P15: a failed refresh ahead of time affects no request; the token stays in use."""
    clock, monotonic = Clock(), Clock()
    with AuthorizationServer(clock=clock, access_token_lifetime=1000) as server:
        failed = threading.Event()
        manager = signed_in(
            server,
            grant={**row.grant, "clock": clock},
            clock=clock,
            monotonic=monotonic,
            refresh_ahead=0.2,
            on_event=lambda event: event.kind == "failed" and failed.set(),
        )
        with session_for(manager, server) as session:
            row.spoil(server)
            clock.advance(900)
            assert session.get(server.resource).history == []
            assert failed.wait(10)
            for _ in range(10):  # no attempt during the backoff
                assert session.get(server.resource).history == []
            assert server.counters.exchanges == row.exchanges

            # Within the leeway the first request that needs a new token tries once, whatever
            # backoff the refresh ahead of time has left.
            clock.advance(98)
            for _ in range(10):
                assert session.get(server.resource).history == []
            assert server.counters.exchanges == 2 * row.exchanges

            clock.advance(3)
            with pytest.raises(row.error) as caught:
                session.get(server.resource)
            assert caught.value.response is None
            assert caught.value.request.url == server.resource

            server.clear_faults()
            monotonic.advance(caught.value.retry_after)
            assert session.get(server.resource).history == []
            assert server.counters.rejected == 0
