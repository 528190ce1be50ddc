"""``Token``: how responses are read, whatever is in them, and that no token is shown."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import math
import pickle
import time
import traceback
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import requests_silent_refresh.token as module
from requests_silent_refresh.reading import MAX_LIFETIME
from requests_silent_refresh.redaction import Secret
from requests_silent_refresh.times import parse_time
from requests_silent_refresh.token import Token

AT, RT, ID = "canary-access", "canary-refresh", "canary-id"
NOW = 1_800_000_000.0


def answer(**fields: Any) -> Token:
    """Create a token from a response received at ``NOW``."""
    return Token.from_response({"access_token": AT, **fields}, received_at=NOW)


def jwt(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}.c2ln"


# --- construction ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", " ", "a b", "a\n", "\na", "a\r\nX-Evil: 1", "a\tb", "a\x00", "\x7f", "tökén", "\u2028"],
)
@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_a_token_that_could_break_a_header_is_refused(field: str, value: str) -> None:
    """P11: an empty or multi-line token raises a ``ValueError`` that says what to do."""
    with pytest.raises(ValueError, match=rf"{field} must be .* with value.strip\(\)"):
        Token(**{"access_token": AT, field: value})


@pytest.mark.parametrize("value", [5, b"bytes", True, ["x"], {"a": 1}, object])
@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_a_token_that_is_not_a_string_is_refused(field: str, value: object) -> None:
    """P11: a type other than ``str`` raises a ``ValueError`` that names it."""
    with pytest.raises(ValueError, match=rf"{field} must be a str, not {type(value).__name__}"):
        Token(**{"access_token": AT, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "1800000000", True, 1e300, 10**400]
)
@pytest.mark.parametrize("field", ["expires_at", "issued_at"])
def test_a_time_must_be_a_finite_number(field: str, value: Any) -> None:
    """P15: a string, or a number that would break arithmetic, raises ``ValueError``."""
    with pytest.raises(ValueError, match=f"{field} must be a Unix time"):
        Token(AT, **{field: value})


def test_a_token_is_immutable_and_compared_by_identity() -> None:
    """P3: a token that threads share cannot change, and equality is identity."""
    token, twin = Token(AT, RT), Token(AT, RT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        token.expires_at = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        token.extra["x"] = 1  # type: ignore[index]
    assert token != twin
    assert len({token, twin}) == 2
    assert copy.copy(token) is token
    assert copy.deepcopy([token])[0] is token


def test_replace_makes_a_changed_copy() -> None:
    """P4: ``dataclasses.replace`` keeps the secrets."""
    token = dataclasses.replace(Token(AT, RT, expires_at=1.0, scope="a b"), expires_at=2)
    assert token.to_dict() == Token(AT, RT, expires_at=2.0, scope=("a", "b")).to_dict()


def test_the_extra_of_a_token_is_its_own() -> None:
    """P3: changing the dictionary after construction does not change the token."""
    extra = {"tenant": "t"}
    token = Token(AT, extra=extra)
    extra["tenant"] = "other"
    assert token.extra == {"tenant": "t"}


# --- from_response -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (3600, 3600.0),
        (3600.5, 3600.5),
        ("3600", 3600.0),
        (" 3600 ", 3600.0),
        ("3600.5", 3600.5),
        (0, 0.0),
        (-5, 0.0),
        ("-5", 0.0),
        (1e14, MAX_LIFETIME),
        (2**31, MAX_LIFETIME),
        (1e300, None),
        (10**400, None),
        ("9" * 5000, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        (None, None),
        (True, None),
        (False, None),
        ([3600], None),
        ({"seconds": 3600}, None),
        ("2027-01-15T08:10:00Z", 600.0),
        ("2027-01-15T07:00:00Z", 0.0),
    ],
)
def test_lifetimes_as_servers_send_them(expires_in: object, lifetime: float | None) -> None:
    """P15: ``expires_in`` may be a string, a date, or a huge, negative or non-finite number."""
    token = answer(expires_in=expires_in)
    assert token.expires_at == (None if lifetime is None else NOW + lifetime)
    assert token.issued_at == NOW


def test_a_response_without_a_lifetime_has_no_expiry() -> None:
    """P7: without one, the token is used until a 401 rejects it."""
    assert answer().expires_at is None


@pytest.mark.parametrize("payload", [{}, {"tokens": []}, {"error": "invalid_grant"}])
def test_a_response_without_access_token_raises(payload: dict[str, Any]) -> None:
    """P4: no token is created from a response that grants none."""
    with pytest.raises(ValueError, match="no access_token"):
        Token.from_response(payload, received_at=NOW)


@pytest.mark.parametrize("value", [None, "", True, ["a"], {"a": "b"}, "a\nb"])
def test_a_response_with_an_unusable_access_token_raises(value: object) -> None:
    """P4: null, empty, multi-line and non-string access tokens raise ``ValueError``."""
    with pytest.raises(ValueError, match="access_token"):
        Token.from_response({"access_token": value}, received_at=NOW)


@pytest.mark.parametrize("missing", [{}, {"refresh_token": None}, {"refresh_token": ""}])
def test_a_response_without_refresh_token_keeps_the_old_one(missing: dict[str, Any]) -> None:
    """P4: RFC 6749 section 6: the refresh token and the scope are kept if not sent."""
    previous = Token("old", RT, scope="read write")
    token = Token.from_response({"access_token": AT, **missing}, NOW, previous)
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == RT
    assert token.scope == ("read", "write")


@pytest.mark.parametrize("value", [["a"], {"a": "b"}, True, "a\nb", "tökén"])
def test_an_unusable_refresh_token_costs_only_itself(value: object) -> None:
    """P16: the access token beside it is used, and the old refresh token is kept."""
    previous = Token("old", RT)
    token = Token.from_response({"access_token": AT, "refresh_token": value}, NOW, previous)
    assert token.access_token.reveal() == AT
    assert token.refresh_token is previous.refresh_token


@pytest.mark.parametrize("value", [["a"], True, "a b", 5])
@pytest.mark.parametrize("received_at", [None, NOW])
def test_an_unusable_refresh_token_of_a_sign_in_raises(
    value: object, received_at: float | None
) -> None:
    """P16: nothing is spent, and a session without its refresh token would end at its expiry."""
    with pytest.raises(ValueError, match=r"refresh_token must be .*(not (int|list|bool)|ASCII)"):
        Token.from_response({"access_token": AT, "refresh_token": value}, received_at)


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (2**70, "1180591620717411303424"), (1.5, "1.5"), (" a\n", "a")]
)
def test_a_number_is_a_tokens_text(value: object, text: str) -> None:
    """P16: a token that an exchange brings as a number, or with space around it, is used."""
    payload = {"access_token": value, "refresh_token": value}
    token = Token.from_response(payload, NOW, Token("old", RT))
    assert token.refresh_token is not None
    assert token.access_token.reveal() == token.refresh_token.reveal() == text


def test_a_response_with_refresh_token_and_scope_replaces_both() -> None:
    """P4: a rotated refresh token replaces the old one."""
    previous = Token("old", "old-refresh", scope="read write")
    payload = {"access_token": AT, "refresh_token": RT, "scope": "read"}
    token = Token.from_response(payload, NOW, previous)
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == RT
    assert token.scope == ("read",)


@pytest.mark.parametrize(
    ("scope", "read"),
    [
        ("a  b", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (["a", 1, None], ("a",)),
        (5, ()),
        (True, ()),
        ({"a": 1}, ()),
        ("", ()),
        (None, ()),
    ],
)
def test_scopes_as_servers_send_them(scope: object, read: tuple[str, ...]) -> None:
    """P7: an invalid scope does not make a valid token unusable."""
    assert answer(scope=scope).scope == read


@pytest.mark.parametrize(
    ("token_type", "read"),
    [("bearer", "bearer"), ("DPoP", "DPoP"), ("", "Bearer"), (None, "Bearer"), (5, "Bearer")],
)
def test_token_types(token_type: object, read: str) -> None:
    """P7: the type is kept as sent, and defaults to Bearer."""
    assert answer(token_type=token_type).token_type == read


def test_the_other_fields_of_a_response_are_kept() -> None:
    """P4: an ``id_token`` or a tenant is kept in ``extra``."""
    assert answer(expires_in=5, id_token=ID, tenant={"id": 1}).extra == {
        "id_token": ID,
        "tenant": {"id": 1},
    }


def test_a_saved_dictionary_is_read_by_its_expires_at() -> None:
    """P15: a saved token expires at its ``expires_at``, not ``expires_in`` from now."""
    kept = {"access_token": AT, "expires_in": 3600, "expires_at": NOW + 60}
    token = Token.from_response(kept)
    assert (token.expires_at, token.issued_at) == (NOW + 60, None)
    before = time.time()
    token = Token.from_response({"access_token": AT, "expires_in": 3600})
    assert token.expires_at is not None
    assert before + 3600 <= token.expires_at <= time.time() + 3600


def test_an_expires_at_in_a_servers_response_is_ignored() -> None:
    """P7: the server's clock does not matter, because ``expires_in`` counts from receipt."""
    token = answer(expires_in=60, expires_at=5)
    assert token.expires_at == NOW + 60


# --- the JWT's hint --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ({"exp": 5000, "iat": 2000}, 3000.0),
        ({"exp": 5000.5, "iat": "2000"}, 3000.5),
        ({"exp": 1e14, "iat": 0}, MAX_LIFETIME),
        ({"exp": 2000, "iat": 5000}, None),
        ({"exp": 2000, "iat": 2000}, None),
        ({"exp": 5000}, None),
        ({"iat": 5000}, None),
        ({"exp": None, "iat": None}, None),
        ({"exp": "soon", "iat": 0}, None),
        ({"exp": True, "iat": False}, None),
        ({"exp": math.inf, "iat": 0}, None),
        ({"exp": math.nan, "iat": 0}, None),
        ({"exp": [1], "iat": {}}, None),
        ([], None),
        ("exp", None),
        (5, None),
        (None, None),
    ],
)
def test_a_jwt_hints_at_its_lifetime(claims: object, lifetime: float | None) -> None:
    """P15: ``exp - iat`` counts from receipt; invalid values are ignored."""
    token = Token.from_response({"access_token": jwt(claims)}, received_at=NOW)
    assert token.expires_at == (None if lifetime is None else NOW + lifetime)


def test_expires_in_takes_precedence_over_the_hint() -> None:
    """P15: the token's claims do not override the lifetime that the server sends."""
    payload = {"access_token": jwt({"exp": 5000, "iat": 0}), "expires_in": "60"}
    assert Token.from_response(payload, received_at=NOW).expires_at == NOW + 60


DEEP = base64.urlsafe_b64encode(b"[" * 100_000).decode()


@pytest.mark.parametrize(
    "access_token",
    [
        *("..", "a.b.c", "a.%%%.c", "a.=.c", "a." + "A" * 65536 + ".c", f"a.{DEEP}.c", "a.b.c.d"),
        "a." + base64.urlsafe_b64encode(b"\xff\xfe\x00").decode() + ".c",
        "a." + base64.urlsafe_b64encode(b'{"exp":' + b"9" * 5000 + b',"iat":0}').decode() + ".c",
        "a." + base64.urlsafe_b64encode(b'{"exp":1,"iat":').decode() + ".c",
    ],
)
def test_a_hostile_jwt_is_not_a_hint(access_token: str) -> None:
    """P7: an invalid or hostile JWT is used as an opaque token."""
    token = Token.from_response({"access_token": access_token}, received_at=NOW)
    assert token.expires_at is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["access_token", "refresh_token", "token_type", "expires_in", "expires_at", "scope", "id_token"]
)


@given(st.dictionaries(FIELDS, JSON), st.sampled_from([None, NOW]))
@example({"access_token": AT, "expires_in": "1-1-1"}, NOW)
def test_any_json_makes_a_sound_token_or_a_value_error(
    payload: dict[str, Any], received_at: float | None
) -> None:
    """P7: for any JSON from a server, the outcome is a usable token or a ``ValueError``."""
    try:
        token = Token.from_response(payload, received_at)
    except ValueError:
        return
    assert token.expires_at is None or math.isfinite(token.expires_at)
    again = Token.from_dict(json.loads(json.dumps(token.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(token.to_dict())


# --- times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1_800_000_000, NOW),
        ("1800000000", NOW),
        (1_800_000_000_500, NOW + 0.5),
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15T08:00:00z", NOW),
        ("2027-01-15T08:00:00", NOW),
        ("2027-01-15 08:00:00+00:00", NOW),
        ("2027-01-15T10:00:00+02:00", NOW),
        ("2027-01-15T08:00:00.5Z", NOW + 0.5),
        ("2027-01-15T08:00:00.123456789Z", NOW + 0.123456),
        (" 2027-01-15T08:00:00Z\n", NOW),
        ("2027-01-15", NOW - 8 * 3600),
        ("tomorrow", None),
        ("2027-13-45T99:00:00Z", None),
        ("", None),
        (None, None),
        (True, None),
        ([], None),
        (math.nan, None),
    ],
)
def test_times_as_apis_write_them(value: object, moment: float | None) -> None:
    """P15: Unix seconds, milliseconds and ISO 8601 are read alike on all Python versions."""
    assert parse_time(value) == (None if moment is None else pytest.approx(moment, abs=1e-6))


@given(st.text() | st.datetimes(timezones=st.timezones() | st.none()).map(str))
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
def test_no_time_raises(text: str) -> None:
    """P7: any text gives a finite time or None."""
    moment = parse_time(text)
    assert moment is None or math.isfinite(moment)


# --- secrets -----------------------------------------------------------------------------


def test_no_formatting_shows_a_token() -> None:
    """P12: repr, str and format of a token, its fields or a collection do not show it."""
    token = answer(refresh_token=RT, id_token=ID, nested={"deep": ID})
    shown = [repr(token), str(token), f"{token}", f"{token!r:>9}", repr([token]), str({"t": token})]
    shown += [f"{token.access_token:>40}", f"{token.refresh_token}", f"{token.extra}"]
    shown += [repr(vars(token)), repr(token.__dict__), repr(dataclasses.fields(token))]
    assert not [text for text in shown if "canary" in text]
    assert "***" in repr(token)
    assert "nested" in repr(token.extra)


def test_two_tokens_can_be_told_apart() -> None:
    """P12: the repr has a fingerprint, which is equal only for equal tokens."""
    assert answer().access_token.fingerprint in repr(answer())
    assert repr(Token(AT)) == repr(Token(Secret(AT)))
    assert repr(Token("other")) != repr(Token(AT))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_token_cannot_be_pickled(protocol: int) -> None:
    """P12: pickling raises a ``TypeError`` that says what to pickle instead."""
    token = answer(refresh_token=RT)
    for thing in (token, token.access_token, [token], {"extra": token.extra}):
        with pytest.raises(TypeError, match=r"pickle"):
            pickle.dumps(thing, protocol)


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": "canary\n", "refresh_token": RT},
        {"access_token": AT, "refresh_token": "canary\n"},
        {"access_token": ["canary"]},
        {"access_token": {"canary": "canary"}},
        {"access_token": b"canary"},
        {"access_token": AT, "refresh_token": RT, "expires_at": "soon"},
        {"access_token": AT, "refresh_token": RT, "extra": {"id_token": ID}, "issued_at": math.nan},
        {"accessToken": AT, "refresh_token": RT},
    ],
)
@pytest.mark.parametrize("make", [Token.from_dict, Token.from_response, lambda f: Token(**f)])
def test_a_constructor_that_raises_shows_nothing(make: Any, fields: dict[str, Any]) -> None:
    """P12: neither the message nor the locals of our frames hold the values passed in."""
    try:
        shown = repr(make(fields))
    except (ValueError, TypeError) as error:
        captured = traceback.TracebackException.from_exception(error, capture_locals=True)
        ours = [frame.locals for frame in captured.stack if frame.filename == module.__file__]
        shown = f"{error!r} {ours}"
    assert "canary" not in shown


@given(
    st.builds(
        Token,
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
        st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
        st.none() | st.floats(-1e14, 1e14),
        st.none() | st.integers(-(10**14), 10**14),
        st.sampled_from(["Bearer", "DPoP"]),
        st.lists(st.text()),
        st.dictionaries(st.text(), JSON),
    )
)
def test_to_dict_and_back(token: Token) -> None:
    """P4: a store writes the complete token, which survives JSON."""
    text = json.dumps(token.to_dict())
    assert json.dumps(Token.from_dict(json.loads(text)).to_dict()) == text


@pytest.mark.parametrize("fields", [{}, {"access_token": AT, "canary": 1}, {"refresh_token": RT}])
def test_a_dictionary_that_is_not_a_token_raises(fields: dict[str, Any]) -> None:
    """P4: a stored state that is not a token of this version raises a typed error."""
    with pytest.raises((TypeError, ValueError)):
        Token.from_dict(fields)
