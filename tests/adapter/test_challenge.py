"""What a 401's WWW-Authenticate says about the token (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import time

import pytest
import requests
import responses
from hypothesis import example, given
from hypothesis import strategies as st

from requests_silent_refresh.adapter.challenge import (
    Challenge,
    is_rejected,
    parse,
    rejects_token,
)

API = "https://api.example.com/me"


def bearer(**parameters: str) -> Challenge:
    return Challenge("Bearer", parameters)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        (" , ,, ", []),
        ("Bearer", [bearer()]),
        ("bearer", [Challenge("bearer", {})]),
        ('Bearer realm="api"', [bearer(realm="api")]),
        ("Bearer realm=api", [bearer(realm="api")]),
        (
            'Bearer REALM = "api" , Error\t=\tinvalid_token',
            [bearer(realm="api", error="invalid_token")],
        ),
        ('Bearer realm="a, b", error="x"', [bearer(realm="a, b", error="x")]),
        (r'Bearer realm="say \"hi\", \\ you"', [bearer(realm='say "hi", \\ you')]),
        ('Bearer realm="Basic realm=x"', [bearer(realm="Basic realm=x")]),
        ('Bearer realm=""', [bearer(realm="")]),
        ('Bearer realm="a", realm="b"', [bearer(realm="a")]),
        ('Bearer,, ,error="x"', [bearer(error="x")]),
        (", Bearer", [bearer()]),
        ("Bearer\r\n realm=x", [bearer(realm="x")]),
        (
            'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
            [
                Challenge("Newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
                Challenge("Basic", {"realm": "simple"}),
            ],
        ),
        ("Basic, Bearer", [Challenge("Basic", {}), bearer()]),
        ("Negotiate YWJj", [Challenge("Negotiate", {}, "YWJj")]),
        ("Negotiate YWJj==, Bearer", [Challenge("Negotiate", {}, "YWJj=="), bearer()]),
        (
            "Negotiate a/b+c=,Bearer error=x",
            [Challenge("Negotiate", {}, "a/b+c="), bearer(error="x")],
        ),
        # Not in the grammar, but sent: no comma between the challenges or the parameters.
        ("Basic realm=x Bearer realm=y", [Challenge("Basic", {"realm": "x"}), bearer(realm="y")]),
        ('Bearer realm="x" error="y"', [bearer(realm="x", error="y")]),
        # Broken: what can be made out is kept.
        ('Bearer error="never closed', [bearer(error="never closed")]),
        ('Bearer error="never closed\\', [bearer(error="never closed\\")]),
        ('Bearer error="', [bearer(error="")]),
        ("Bearer error=", [Challenge("Bearer", {}, "error=")]),
        ('"Bearer"', []),
        ('error="x"', []),
        ('= "x", Bearer', [bearer()]),
        ("Bearer =,=", [bearer()]),
    ],
)
def test_challenges_are_read_as_servers_write_them(
    header: str, challenges: list[Challenge]
) -> None:
    """P2: commas in quotes, escapes, token68 and broken headers do not hide a challenge."""
    assert parse(header) == challenges


@pytest.mark.parametrize(
    ("header", "rejected"),
    [
        (None, True),
        ("", True),
        ("  ", True),
        ('"', True),
        ("Bearer", True),
        ("bEaReR", True),
        ('Bearer realm="api"', True),
        ('Bearer error="invalid_token"', True),
        ('Bearer error="invalid_request"', True),
        ('Bearer error="insufficient_scope", scope="write"', False),
        ("Bearer error=Insufficient_Scope", False),
        ('Bearer error="insufficient_user_authentication", max_age="5"', False),
        ('Bearer realm="insufficient_scope"', True),
        ('Bearer error_description="insufficient_scope"', True),
        ('Bearer realm="a", Bearer error="insufficient_scope"', False),
        ('Bearer error="insufficient_scope", Bearer error="invalid_token"', True),
        ('Basic realm="api"', False),
        ('Basic realm="Bearer"', False),
        ("Basic, Bearer", True),
        ('Basic error="insufficient_scope", Bearer', True),
        ('Bearer, Basic error="insufficient_scope"', True),
        ("Negotiate", False),
        ("BearerX", False),
        ("X-Bearer", False),
    ],
)
def test_which_challenges_reject_the_token(header: str | None, rejected: bool) -> None:
    """P2: only a challenge for Bearer that another token could satisfy asks for a refresh."""
    assert rejects_token(header) is rejected


def test_another_scheme_than_bearer() -> None:
    """P2: an API with a scheme of its own is heard on that one, a bare token on any."""
    assert rejects_token("DPoP error=invalid_token", "dpop")
    assert not rejects_token("Bearer", "DPoP")
    assert not rejects_token("Token error=insufficient_scope", "Token")
    assert rejects_token("Basic", "")
    assert rejects_token(None, "")


@pytest.mark.parametrize(
    ("status", "headers", "rejected"),
    [
        (401, {}, True),
        (401, {"www-authenticate": "Bearer"}, True),
        (401, {"WWW-Authenticate": "Basic"}, False),
        (200, {"WWW-Authenticate": "Bearer"}, False),
        (403, {"WWW-Authenticate": 'Bearer error="invalid_token"'}, False),
        (407, {"WWW-Authenticate": "Bearer"}, False),
    ],
)
@responses.activate
def test_only_a_401_rejects(status: int, headers: dict[str, str], rejected: bool) -> None:
    """P7: no other status than 401 rejects a token, whatever its headers say."""
    responses.get(API, status=status, headers=headers)
    assert is_rejected(requests.get(API)) is rejected


HOSTILE = [
    "a",
    '"',
    "=",
    "\\",
    "a=",
    ",",
    "a ",
    "a,",
    '"\\',
    '""',
    "a=a",
    'a="a" ',
    " ",
    '\\"',
    "\t,=",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_header_costs_linear_time(piece: str) -> None:
    """P8: 64 KiB of anything are read in the time of a few harmless headers of that size."""
    header = "Bearer " + piece * (65536 // len(piece))
    began = time.process_time()
    rejects_token(header)
    # Quadratic behaviour takes seconds to minutes here; linear takes some 0.05 s.
    assert time.process_time() - began < 1.0


@given(st.one_of(st.text(), st.lists(st.sampled_from(HOSTILE)).map("".join)))
@example("Bearer ==")
@example("a b =")
def test_nothing_raises(header: str) -> None:
    """P8: whatever a server sends, an answer comes back as bool and challenges as such."""
    assert rejects_token(header) in (True, False)
    assert all(challenge.scheme for challenge in parse(header))


VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["Basic", "Bearer", "X"]), VALUE, VALUE), max_size=4))
def test_what_was_quoted_by_the_rules_is_read_back(parts: list[tuple[str, str, str]]) -> None:
    """P2: a header written by the grammar, with any text quoted, gives back its challenges."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(f"{s} realm={quoted(r)}, error={quoted(e)}" for s, r, e in parts)
    assert parse(header) == [Challenge(s, {"realm": r, "error": e}) for s, r, e in parts]
