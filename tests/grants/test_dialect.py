"""What the words of an error mean, wherever a server puts them (P7)."""

from __future__ import annotations

from typing import Any

import pytest

from requests_silent_refresh.grants.dialect import meaning_of


@pytest.mark.parametrize(
    "payload",
    [
        {"errors": [{"field": "refresh_token", "code": "invalid"}]},
        {"errors": [{"param": "refresh_token", "message": "has expired"}]},
        {"error": {"parameter": "refresh_token", "reason": "revoked"}},
        {"errors": {"refresh_token": ["is invalid"]}},
    ],
)
def test_the_refresh_token_is_named_beside_what_is_wrong_with_it(payload: dict[str, Any]) -> None:
    """The words of both fields together say that the session is over."""
    assert meaning_of(payload) == "refused"


@pytest.mark.parametrize("field", ["client_id", "scope", "device"])
def test_another_field_is_named_beside_what_is_wrong_with_it(field: str) -> None:
    """The session is not over."""
    assert meaning_of({"errors": [{"field": field, "code": "invalid"}]}) != "refused"
