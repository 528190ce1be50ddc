"""64 threads against a server that behaves as each provider is documented to (P1, P6, P7, P10)."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import requests
from wire import at_once

from requests_silent_refresh import (
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshAdapter,
    TokenManager,
    providers,
)
from requests_silent_refresh.providers.provider import Reply
from requests_silent_refresh.testing import Answer, AuthorizationServer

THREADS = 64
SIGNED_IN = [n for n in providers.listed() if providers.named(n).grant_type == "refresh_token"]


class Dressed:
    """A server, a session and a manager for one provider; ``asked`` counts the questions."""

    def __init__(self, provider):
        self.provider = provider
        self.server = AuthorizationServer(
            client_secret="secret",
            rotate=provider.rotates is not False,
            grace=provider.grace or 0.0,
            rotation_ends_access_token=provider.rotation_ends_access_token is True,
        )
        self.server.on("/resource", self._rejection)
        self.asked = []

    def __enter__(self):
        server = self.server.start()
        places = dict.fromkeys(self.provider.places, "example.com")
        grant = self.provider.grant(
            "client",
            "secret",
            token_endpoint=server.token_endpoint,
            revocation_endpoint=None,
            **places,
        )
        self.manager = TokenManager(grant, refresh_ahead=0, on_session_expired=self.asked.append)
        self.manager.sign_in(server.sign_in_token())
        self.session = requests.Session()
        options = {"is_rejected": self._is_rejected} if self._rejects_with_200 else {}
        SilentRefreshAdapter(self.manager, server.url, pool_maxsize=THREADS, **options).mount_on(
            self.session
        )
        return self

    def __exit__(self, *exception):
        self.session.close()
        self.server.stop()

    @property
    def _rejects_with_200(self):
        return self.provider.rejected is not None and self.provider.rejected.status != 401

    def _is_rejected(self, response):
        return response.json().get("error") == self.provider.rejected.fields["error"]

    def _rejection(self, request, answer):
        if answer.status != 401 or self.provider.rejected is None:
            return None
        return Answer.json(self.provider.rejected.status, self.provider.rejected.fields)

    def crowd(self):
        """Send 64 requests, whose token is revoked when all are under way."""
        self.server.gate(THREADS, then=self.server.revoke_access_tokens)
        return at_once(THREADS, lambda _: self.session.get(self.server.resource).status_code)


@pytest.fixture(params=SIGNED_IN)
def dressed(request):
    with Dressed(providers.named(request.param)) as dressed:
        yield dressed


def test_an_early_revocation_costs_one_exchange(dressed):
    """P1, P2: the provider's 401 to 64 requests costs one exchange, and no request fails."""
    assert Counter(map(repr, dressed.crowd())) == {"200": THREADS}
    assert dressed.server.counters.exchanges == dressed.server.counters.granted == 1
    assert dressed.server.counters.reuse_detections == 0
    assert dressed.asked == []


def test_a_dead_refresh_token_ends_the_session_with_one_question(dressed):
    """P6, P10: the provider's refusal, in its dialect, is shared by all, and one is asked."""
    standard = Reply(400, {"error": "invalid_grant"})
    for refusal in dressed.provider.refused or (standard,):
        exchanges = []

        def refuse(request, answer, reply=refusal, exchanges=exchanges):
            exchanges.append(request)
            return Answer.json(*reply)

        dressed.server.on("/token", refuse)
        dressed.asked.clear()
        dressed.manager.sign_in(dressed.server.sign_in_token())
        outcomes = dressed.crowd()
        assert {type(outcome) for outcome in outcomes} == {SessionExpired}
        assert len(exchanges) == len(dressed.asked) == 1
        assert not dressed.manager.signed_in


def test_a_throttled_endpoint_keeps_the_session(dressed):
    """P7: 429 in the provider's dialect of errors is shared by all, and nobody is signed off."""
    body = (dressed.provider.refused or (Reply(400, {"error": "invalid_grant"}),))[0].fields
    arrived = threading.Semaphore(0)

    def throttle(request, answer):
        arrived.release()
        return Answer.json(429, body, {"Retry-After": "1"})

    dressed.server.on("/token", throttle)
    outcomes = dressed.crowd()
    assert {type(outcome) for outcome in outcomes} == {RefreshUnavailable}
    assert arrived.acquire(blocking=False)
    assert not arrived.acquire(blocking=False)
    assert dressed.manager.signed_in
    assert dressed.asked == []
