"""``JSONRefresh``: where a request carries the refresh token."""

from __future__ import annotations

from typing import Any

import pytest

from requests_silent_refresh import JSONRefresh, Token
from requests_silent_refresh.testing import Answer


@pytest.mark.parametrize("ending", ["", "?version=2"])
def test_the_refresh_token_in_the_query(server: Any, ending: str) -> None:
    """It is added to what the URL has, and reaches the server as it is, whatever is in it."""
    asked = []

    def answer(request: Any, _: Answer) -> Answer:
        asked.append((request.method, request.query, request.body))
        return Answer.json(200, {"accessToken": "new"})

    server.on("/open", answer)
    grant = JSONRefresh(
        f"{server.url}/open{ending}", method="GET", query={"rt": "{refresh_token}", "app": "a b"}
    )
    assert grant(Token("old", "r&1=?+")).access_token.reveal() == "new"
    given = {"version": ["2"]} if ending else {}
    assert asked == [("GET", {**given, "rt": ["r&1=?+"], "app": ["a b"]}, b"")]
