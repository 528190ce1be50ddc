"""The application's own ``is_rejected`` and ``skip``: whatever they do, requests end (P8)."""

from __future__ import annotations

import pytest
import requests
from wire import bearer_of, session_of

from requests_silent_refresh import RefreshFailed, without_token


class Undecided:
    """An answer that is neither true nor false."""

    def __bool__(self):
        raise LookupError("mine")


def raises(kind):
    def decide(argument):
        raise kind("mine")

    return decide


def closes_and_raises(argument):
    if isinstance(argument, requests.Response):
        argument.close()
    raise LookupError("mine")


WRONG = {
    "an error": (raises(LookupError), LookupError),
    "an error of requests": (raises(requests.ConnectionError), requests.ConnectionError),
    "an error of this package": (raises(RefreshFailed), RefreshFailed),
    "an exit": (raises(SystemExit), SystemExit),
    "an undecided answer": (lambda argument: Undecided(), LookupError),
    "a wrong signature": (lambda: True, TypeError),
    "an error after closing": (closes_and_raises, LookupError),
}


def narrow(manager, server, **options):
    """Return a session with one connection, which a request that loses it blocks for ever."""
    return session_of(manager, server.url, pool_block=True, pool_maxsize=1, **options)


@pytest.mark.parametrize("name", ["is_rejected", "skip"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_a_callable_raises_reaches_the_caller(kind, name, server, manager):
    """P8, P12: as it is, without a token, and the connection is free for the next request."""
    wrong, raised = WRONG[kind]
    token = bearer_of(manager)
    with narrow(manager, server, **{name: wrong}) as session:
        with pytest.raises(raised) as caught:
            session.get(server.resource)
        assert session.get(server.resource, auth=without_token, timeout=10).status_code == 401
    assert type(caught.value) is raised
    assert token not in str(caught.value) + str(vars(caught.value))
    frames, link = [], caught.value.__traceback__
    while link is not None:
        frames.append({n: v for n, v in link.tb_frame.f_locals.items() if n != "token"})
        link = link.tb_next
    assert token not in str(frames[1:])  # the first is this test's
    assert server.counters.exchanges == 0


@pytest.mark.parametrize("answer", [1, "yes", [0]])
def test_any_true_answer_rejects(answer, server, manager):
    """P2: ``is_rejected`` may return a match or a count, as Python's own predicates may."""
    with narrow(manager, server, is_rejected=lambda r: r.status_code == 401 and answer) as session:
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200


@pytest.mark.parametrize("answer", [None, 0, ""])
def test_any_false_answer_accepts(answer, server, manager):
    """P13: what ``is_rejected`` does not call rejected is returned with its body."""
    with narrow(manager, server, is_rejected=lambda response: answer) as session:
        server.revoke_access_tokens()
        assert session.get(server.resource).json() == {"message": "unauthorized"}
    assert server.counters.exchanges == 0


def test_an_is_rejected_may_close_the_response(server, manager):
    """P8: the request is replayed all the same, and no connection is lost."""

    def is_rejected(response):
        if response.status_code == 401:
            response.close()
        return response.status_code == 401

    with narrow(manager, server, is_rejected=is_rejected) as session:
        for _ in range(2):
            server.revoke_access_tokens()
            response = session.get(server.resource, timeout=10)
            assert [r.content for r in response.history] == [b""]
            assert response.status_code == 200


def test_an_answer_that_is_always_true_is_bounded(server, manager):
    """P2: an ``async def`` is one: its coroutine is true for every response."""
    with narrow(manager, server, is_rejected=lambda response: object()) as session:
        assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 2
    assert server.counters.requests == 3


@pytest.mark.parametrize("name", ["is_rejected", "skip"])
def test_a_callable_may_send_through_its_own_session(name, server, manager):
    """P8: a request without a token asks ``is_rejected`` nothing; ``skip`` must not ask itself."""
    asked = []

    def asks(argument):
        asked.append(argument)
        if len(asked) == 1:
            assert session.get(server.resource, auth=without_token).status_code == 401
        return False

    with session_of(manager, server.url, **{name: asks}) as session:
        assert session.get(server.resource).status_code == 200


@pytest.mark.parametrize("name", ["is_rejected", "skip"])
def test_a_callable_that_asks_itself_for_ever(name, server, manager):
    """P8: it ends as any endless recursion does, and later requests are answered."""
    depth = 0

    def asks(argument):
        nonlocal depth
        depth += 1
        if depth > 20:
            raise RecursionError("mine")  # as Python does, some levels further down
        return session.get(server.resource).ok

    with session_of(manager, server.url, **{name: asks}) as session:
        with pytest.raises(RecursionError, match="mine"):
            session.get(server.resource)
        assert session.get(server.resource, auth=without_token).status_code == 401
