"""The contrast: the same crowd, with the refresh that everybody writes."""

from __future__ import annotations

from typing import Any

import requests

from ...testing.server import AuthorizationServer
from .crowd import Crowd
from .expiry import Phase
from .report import Report, measure
from .screen import Screen


class SnippetSession(requests.Session):
    """On a 401: refresh, remember the tokens, try again. Without a lock; all share ``tokens``."""

    def __init__(self, server: AuthorizationServer, tokens: dict[str, Any]) -> None:
        super().__init__()
        self.trust_env = False
        self._server = server
        self._tokens = tokens

    def request(self, method: Any, url: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]  # the demo gives no more
        """Send a request, and once more after a refresh if it gets a 401."""
        response = self._send(method, url, **kwargs)
        if response.status_code == 401:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._tokens["refresh_token"],
                "client_id": self._server.client_id,
            }
            answer = super().request("POST", self._server.token_endpoint, data=form, timeout=60)
            answer.raise_for_status()
            self._tokens.update(answer.json())
            response = self._send(method, url, **kwargs)
        return response

    def _send(self, method: Any, url: Any, **kwargs: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._tokens['access_token']}"}
        return super().request(method, url, headers=headers, **kwargs)


def run(threads: int, latency: float, screen: Screen) -> Report:
    """Let ``threads`` threads use the snippet through one expiry, and report what happened."""
    screen.say(
        f"First, {threads} threads with the snippet that everybody copies: on a 401 refresh,"
    )
    screen.say("and try again. The server ends their token once, while all are in flight:\n")
    with AuthorizationServer(client_id="demo", latency=latency) as server:
        tokens = server.sign_in()
        crowd = Crowd(threads, lambda: SnippetSession(server, tokens), server.resource)

        def end_the_token() -> None:
            server.revoke_access_tokens()
            crowd.end()  # what is in flight is enough

        gate = server.gate(threads, then=end_the_token)
        failed = Phase(
            "failed",
            lambda: sum(map(bool, crowd.failed)),
            lambda: gate.is_open and all(crowd.finished),
            "because the server took the second use for theft, and revoked the session",
        )
        exchanges = Phase(
            "exchanges",
            lambda: server.counters.exchanges,
            lambda: server.counters.exchanges >= threads or failed.is_over(),
            "with one refresh token, which may be used once",
        )
        try:
            crowd.start()
            for phase in (exchanges, failed):
                screen.follow(phase.line, phase.is_over, timeout=60)
        finally:
            gate.release()
            crowd.stop()
    screen.say("\nNow the same with this library:\n")
    return Report(
        session="lost" if server.counters.reuse_detections else "kept",
        state="",
        threads=threads,
        expiries=1,
        seconds=0,
        requests=sum(crowd.finished),
        failures=sum(crowd.failed),
        first_error=crowd.first_error,
        **measure(server.log, 1),
    )
