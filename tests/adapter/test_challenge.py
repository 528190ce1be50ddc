"""How a 401's ``WWW-Authenticate`` header is read (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import time

import pytest
import responses
from hypothesis import example, given
from hypothesis import strategies as st
from wire import session_of

from requests_silent_refresh import Token, TokenManager
from requests_silent_refresh.adapter.challenge import Challenge, parse, rejects_token

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
        ("Negotiate YWJj", [Challenge("Negotiate", {})]),
        ("Negotiate YWJj==, Bearer", [Challenge("Negotiate", {}), bearer()]),
        (
            "Negotiate a/b+c=,Bearer error=x",
            [Challenge("Negotiate", {}), bearer(error="x")],
        ),
        # Invalid but common: no comma between the challenges or the parameters.
        ("Basic realm=x Bearer realm=y", [Challenge("Basic", {"realm": "x"}), bearer(realm="y")]),
        ('Bearer realm="x" error="y"', [bearer(realm="x", error="y")]),
        # Broken: the readable part is kept.
        ('Bearer error="never closed', [bearer(error="never closed")]),
        ('Bearer error="never closed\\', [bearer(error="never closed\\")]),
        ('Bearer error="', [bearer(error="")]),
        ("Bearer error=", [bearer()]),
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
        ('Bearer error="insufficient_claims", claims="eyJ9"', False),
        ('Bearer error="use_dpop_nonce"', False),
        ('Bearer realm="insufficient_scope"', True),
        ('Bearer error_description="insufficient_scope"', True),
        ('Bearer realm="a", Bearer error="insufficient_scope"', False),
        ('Bearer error="insufficient_scope", Bearer error="invalid_token"', True),
        ('Basic realm="api"', True),
        ('OAuth oauth_problem="token_expired", realm="yahooapis.com"', True),
        ('JWT realm="api"', True),
        ("Basic, Bearer", True),
        ('Basic realm="api", Bearer error="insufficient_scope"', False),
        ('Basic error="insufficient_scope", Bearer', True),
        ('Bearer, Basic error="insufficient_scope"', True),
        ('OAuth error="insufficient_scope"', True),
        ("Negotiate", True),
        ('BearerX error="insufficient_scope"', True),
    ],
)
def test_which_challenges_reject_the_token(header: str | None, rejected: bool) -> None:
    """P2: a 401 rejects the token unless a Bearer challenge says that no refresh helps."""
    assert rejects_token(header) is rejected


def test_a_scheme_other_than_bearer() -> None:
    """P2: only challenges of the configured scheme count; for a bare token, there are none."""
    assert rejects_token("DPoP error=invalid_token", "dpop")
    assert not rejects_token("DPoP error=use_dpop_nonce", "dpop")
    assert rejects_token("Bearer error=insufficient_scope", "DPoP")
    assert not rejects_token("Token error=insufficient_scope", "Token")
    assert rejects_token("Bearer error=insufficient_scope", "")
    assert rejects_token(None, "")


@pytest.mark.parametrize(
    ("status", "headers", "rejected"),
    [
        (401, {}, True),
        (401, {"www-authenticate": "Bearer"}, True),
        (401, {"WWW-Authenticate": "Basic"}, True),
        (401, {"WWW-Authenticate": "Bearer error=insufficient_scope"}, False),
        (200, {"WWW-Authenticate": "Bearer"}, False),
        (403, {"WWW-Authenticate": 'Bearer error="invalid_token"'}, False),
        (407, {"WWW-Authenticate": "Bearer"}, False),
    ],
)
@responses.activate
def test_only_a_401_rejects(status: int, headers: dict[str, str], rejected: bool) -> None:
    """P7: a status other than 401 never rejects a token, whatever its headers say."""
    responses.get(API, status=status, headers=headers)
    exchanged: list[Token | None] = []

    def refresh(token: Token | None) -> Token:
        exchanged.append(token)
        return Token("new")

    manager = TokenManager(refresh, refresh_ahead=0)
    manager.sign_in(Token("old"))
    with session_of(manager, API.removesuffix("/me")) as session:
        session.get(API)
    assert bool(exchanged) is rejected


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
    """P8: 64 KiB of hostile text take no longer than a few harmless headers of that size."""
    header = "Bearer " + piece * (65536 // len(piece))
    began = time.process_time()
    rejects_token(header)
    # Quadratic behaviour would take seconds to minutes here; linear takes about 0.05 s.
    assert time.process_time() - began < 1.0


@given(st.one_of(st.text(), st.lists(st.sampled_from(HOSTILE)).map("".join)))
@example("Bearer ==")
@example("a b =")
def test_no_header_raises(header: str) -> None:
    """P8: any header gives a bool and a list of challenges with schemes."""
    assert rejects_token(header) in (True, False)
    assert all(challenge.scheme for challenge in parse(header))


VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["Basic", "Bearer", "X"]), VALUE, VALUE), max_size=4))
def test_a_valid_header_is_read_back(parts: list[tuple[str, str, str]]) -> None:
    """P2: a header that follows the grammar, with any quoted text, gives its challenges."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(f"{s} realm={quoted(r)}, error={quoted(e)}" for s, r, e in parts)
    assert parse(header) == [Challenge(s, {"realm": r, "error": e}) for s, r, e in parts]
