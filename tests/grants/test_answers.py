"""What is read from the answers and token files of real providers and tools.

``answers/exchanges.json`` has what token endpoints answer, ``answers/kept.json`` what other
programs save. Each row names the page that describes its shape. Tokens are ``A`` and ``R``, and
the time is ``NOW``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from requests_silent_refresh import Token
from requests_silent_refresh.grants.answer import EndpointAnswer
from requests_silent_refresh.reading import Reader

NOW = 1_800_000_000.0
HERE = Path(__file__).parent / "answers"
EXCHANGES = json.loads((HERE / "exchanges.json").read_text(encoding="utf-8"))
KEPT = json.loads((HERE / "kept.json").read_text(encoding="utf-8"))
ROWS = EXCHANGES + KEPT
OLD = Token("old-access", "old-refresh", extra={"kept": "since the sign-in"})


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def reading(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is read, as the row states it; nothing if nothing can be read."""
    try:
        token = _token(row)
    except ValueError:
        return {}
    refresh = None if token.refresh_token is None else token.refresh_token.reveal()
    access: str | None = token.access_token.reveal()
    if row in EXCHANGES or "expires_in" in row:
        expiry = None if token.expires_at is None else token.expires_at - NOW
        refresh = None if refresh == "old-refresh" else refresh
        return {"access_token": access, "refresh_token": refresh, "expires_in": expiry}
    access = None if token.expires_at == 0 else access  # the placeholder
    return {"access_token": access, "refresh_token": refresh, "expires_at": token.expires_at}


def _token(row: dict[str, Any]) -> Token:
    if "expires_at" in row:
        return Token.from_response(row["answer"])
    text = row["answer"] if isinstance(row["answer"], str) else json.dumps(row["answer"])
    answer = EndpointAnswer(200, {}, text.encode(), NOW)
    reader = Reader(expires_unit=row.get("expires_unit", "s"))
    return Token.from_response(answer.payload or {}, NOW, OLD, reader=reader)


def stated(row: dict[str, Any]) -> dict[str, Any]:
    last = "expires_at" if "expires_at" in row else "expires_in"
    return {name: row[name] for name in ("access_token", "refresh_token", last)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_each_answer_is_read_as_stated(row: dict[str, Any]) -> None:
    """P16: the tokens and the expiry are found, whatever the shape."""
    assert reading(row) == {
        name: pytest.approx(value) if isinstance(value, float) else value
        for name, value in stated(row).items()
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_other_fields_live_on(row: dict[str, Any]) -> None:
    """P16: unknown fields are kept beside the token, and those of the sign-in with them."""
    extra = _token(row).extra
    assert {name: extra.get(name) for name in row.get("extra", {})} == row.get("extra", {})
    shown = json.dumps(dict(extra))
    assert '"R"' not in shown
    assert "client_secret" not in extra
    assert "clientSecret" not in extra
    if row in EXCHANGES:
        assert extra["kept"] == "since the sign-in"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_renamed_field_fails_its_row(row: dict[str, Any]) -> None:
    """The table can fail: each statement about a token or an expiry hangs on a field's name."""
    hanging = set()
    for renamed in _renamed(row["answer"]):
        changed = reading(row | {"answer": renamed})
        hanging |= {name for name, value in stated(row).items() if changed.get(name) != value}
    expected = {name for name, value in stated(row).items() if value is not None}
    if row["name"] == "Salesforce":
        assert hanging >= {"access_token"}
    assert hanging >= expected


def _renamed(value: Any) -> Iterator[Any]:
    """Yield copies of an answer in which the name of one field is nonsense."""
    if isinstance(value, str):
        for name in ("access_token", "refresh_token", "expires_in", "expires"):
            if name in value:
                yield value.replace(name, "zzz", 1)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {("zzz" if key == name else key): field for key, field in value.items()}
            for changed in _renamed(inner):
                yield copy.copy(value) | {name: changed}
    if isinstance(value, list):
        for at, inner in enumerate(value):
            for changed in _renamed(inner):
                yield [*value[:at], changed, *value[at + 1 :]]


def test_the_table_is_large_enough() -> None:
    """Issue 15: at least 60 answers, and each row says where its shape is described."""
    assert len(ROWS) >= 60
    assert all(row["page"].startswith("https://") for row in ROWS)
    assert len({row["name"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "kept",
    [
        {"alice": {"access_token": "A", "refresh_token": "R"}, "bob": {"access_token": "B"}},
        [{"accessToken": "A", "refreshToken": "R"}, {"accessToken": "B", "refreshToken": "S"}],
        {
            "AccessToken": {
                "1": {"secret": "A", "home_account_id": "alice"},
                "2": {"secret": "B", "home_account_id": "bob"},
            },
            "RefreshToken": {"1": {"secret": "R", "home_account_id": "alice"}},
        },
    ],
)
def test_the_tokens_of_several_people_are_not_mixed(kept: Any) -> None:
    """P17: a file with several sign-ins is refused in words, instead of choosing one."""
    with pytest.raises(ValueError, match="several sign-ins"):
        Token.from_response(kept)
