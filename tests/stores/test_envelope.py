"""The envelope of a stored state: what it reveals, and that any damage to it is detected."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json

import pytest

from requests_silent_refresh import StoreCorrupted, StoreError, Token, WrongKey
from requests_silent_refresh.keys import Keys, as_source, generate_key
from requests_silent_refresh.stores.contract import State
from requests_silent_refresh.stores.envelope import Envelope, seal, unseal

KEY = generate_key()
PLACE = "app/tokens"
STATE = State("ab" * 16, 7, Token("canary-access", "canary-refresh", expires_at=1.8e9))


def keys(*given):
    return Keys(as_source(list(given) or KEY))


def sealed(state=STATE, place=PLACE, key=KEY):
    return seal(state, keys(key).encrypting(None), place).to_bytes()


def opened(content, place=PLACE, key=KEY):
    return unseal(Envelope.from_bytes(content), keys(key), place)


def shown_by_frames_of(error):
    """Return the local variables of our own frames in a traceback."""
    frames = []
    frame = error.__traceback__
    while frame:
        if "requests_silent_refresh" in frame.tb_frame.f_code.co_filename:
            frames.append(repr(frame.tb_frame.f_locals))
        frame = frame.tb_next
    return "".join(frames)


def test_a_state_is_restored():
    """Opening a sealed state returns the same state."""
    state = opened(sealed())
    assert STATE.is_same(state)
    assert state.token.to_dict() == STATE.token.to_dict()


def test_a_tombstone_is_restored():
    """Opening a signed-out state returns a signed-out state."""
    assert opened(sealed(STATE.followed_by(None))).token is None


def test_what_an_engine_sees():
    """P12: the lineage, generation, key id and formats are readable; the tokens are not."""
    envelope = Envelope.from_bytes(sealed())
    assert dict(envelope.header) == {
        "format": "requests-silent-refresh tokens",
        "version": 1,
        "reader": 1,
        "key": envelope.key_id,
        "kdf": None,
        "lineage": STATE.lineage,
        "generation": 7,
    }
    assert b"canary" not in envelope.to_bytes()
    assert KEY[:12].encode() not in envelope.to_bytes()


def test_every_flipped_bit_is_detected():
    """Flipping any bit of the file is a typed error."""
    whole = sealed()
    ours = keys()
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            with pytest.raises(StoreError):
                unseal(Envelope.from_bytes(bytes(damaged)), ours, PLACE)


def test_every_truncation_is_detected():
    """A file that is truncated at any length is corrupt."""
    whole = sealed()
    ours = keys()
    for length in range(len(whole)):
        with pytest.raises(StoreCorrupted):
            unseal(Envelope.from_bytes(whole[:length]), ours, PLACE)


@pytest.mark.parametrize("more", [b"\n", b"\0", b"x", b"gAAAA\n"])
def test_anything_appended_is_detected(more):
    """A file with anything after its end is corrupt."""
    with pytest.raises(StoreCorrupted):
        opened(sealed() + more)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello\n",
        b"{}\n\n",
        b"[]\nx\n",
        b'"text"\nx\n',
        b"\xff\xfe\n\n",
        b"[" * 100_000,
        b'{"format":"something else"}\nx\n',
        b'{"access_token":"plain"}\n',
    ],
)
def test_a_foreign_file_is_detected(content):
    """Any content that this package did not write is corrupt."""
    with pytest.raises(StoreCorrupted, match="not written by this package"):
        Envelope.from_bytes(content)


def test_a_future_format_is_named():
    """The error for a newer format names it, and is not StoreCorrupted."""
    header, body = sealed().split(b"\n")[:2]
    newer = {**json.loads(header), "version": 4, "reader": 3, "more": "fields"}
    with pytest.raises(StoreError, match=r"format 4 .* reads format 3.*upgrade") as error:
        Envelope.from_bytes(json.dumps(newer).encode() + b"\n" + body + b"\n")
    assert not isinstance(error.value, StoreCorrupted)


def test_a_newer_format_that_can_be_read():
    """Unknown fields of a newer writer are ignored if its format can be read."""
    cipher = keys().encrypting(None)
    header = {**Envelope.from_bytes(sealed()).header, "version": 2, "more": [1]}
    content = {"header": header, "place": PLACE, "token": STATE.token.to_dict(), "hint": 1}
    envelope = Envelope(header, cipher.fernet.encrypt(json.dumps(content).encode()))
    assert STATE.is_same(opened(envelope.to_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 8},
        {"lineage": "cd" * 16},
        {"kdf": {"name": "scrypt"}},
        {"version": 2},
        {"reader": 0},
        {"added": 1},
    ],
)
def test_a_changed_header_is_detected(change):
    """P1: without the key, a state cannot be passed off as another generation or session."""
    header, body = sealed().split(b"\n")[:2]
    forged = json.dumps({**json.loads(header), **change}, separators=(",", ":")).encode()
    with pytest.raises(StoreCorrupted):
        opened(forged + b"\n" + body + b"\n")


@pytest.mark.parametrize("name", ["version", "reader", "key", "kdf", "lineage", "generation"])
def test_wrong_types_in_a_header_are_detected(name):
    """A header that lacks any field, or has any field of another type, is corrupt."""
    header, body = sealed().split(b"\n")[:2]
    right = json.loads(header)
    for value in (None, True, 1.5, "text", [], {}, ...):
        fields = {**right, name: value}
        if value is ...:
            del fields[name]
        if fields != right:
            with pytest.raises(StoreError):
                opened(json.dumps(fields, separators=(",", ":")).encode() + b"\n" + body + b"\n")


def test_another_place_is_detected():
    """The states of two sessions cannot be swapped, even if one key encrypts both."""
    with pytest.raises(StoreCorrupted, match=r"made for 'app/tokens'.*found at 'app/other'"):
        opened(sealed(), place="app/other")


def test_a_directory_in_the_place_is_ignored_if_asked():
    """States that name a directory as well can be read; only whole names count."""
    envelope = Envelope.from_bytes(sealed(place="app/tokens"))
    assert unseal(envelope, keys(), "tokens", any_folder=True).is_same(STATE)
    for place in ("okens", "other"):
        with pytest.raises(StoreCorrupted, match="made for"):
            unseal(envelope, keys(), place, any_folder=True)


def test_the_identity_is_bound():
    """P11: server and client come back as they were stored, and the header does not show them."""
    content = sealed(dataclasses.replace(STATE, identity="https://auth.example.com/token"))
    assert opened(content).identity == "https://auth.example.com/token"
    assert b"example" not in content.splitlines()[0]
    assert opened(sealed()).identity is None


def test_another_key_is_named():
    """A wrong key is distinguished from a damaged file, and the error names both keys."""
    other = generate_key()
    with pytest.raises(WrongKey) as error:
        opened(sealed(), key=other)
    stored = Envelope.from_bytes(sealed()).key_id
    (tried,) = error.value.key_ids
    assert error.value.stored_key_id == stored
    assert stored != tried
    assert stored in str(error.value)
    assert tried in str(error.value)
    assert other not in str(error.value)


def test_other_contents_of_the_right_key_are_detected():
    """Encrypted content that is not a state is corrupt, and the error does not show it."""
    cipher = keys().encrypting(None)
    header = Envelope.from_bytes(sealed()).header
    for content in (
        b"not json canary",
        b"[]",
        b"{}",
        b'{"header":{},"place":"","token":{"access_token":"canary\\n"}}',
        b'{"header":{},"place":"","token":{"unknown":"canary"}}',
        b"[" * 100_000,
    ):
        with pytest.raises(StoreCorrupted) as error:
            opened(Envelope(header, cipher.fernet.encrypt(content)).to_bytes())
        assert "canary" not in str(error.value)
        assert error.value.__cause__ is None
        assert "canary" not in shown_by_frames_of(error.value)


def test_only_standard_base64_is_accepted():
    """Another spelling of the same ciphertext, which Python would decode, is rejected."""
    header, body = sealed().split(b"\n")[:2]
    for spelling in (body[:10] + b"!" + body[10:], body.replace(b"=", b"") + b"===="):
        assert base64.urlsafe_b64decode(spelling) == base64.urlsafe_b64decode(body)
        with pytest.raises(StoreCorrupted):
            opened(header + b"\n" + spelling + b"\n")


def test_extra_that_is_not_json_is_saved_as_text():
    """P4: an unusual value in an answer does not prevent saving its refresh token."""
    token = Token(
        "a", "r", extra={"when": datetime.date(2026, 1, 2), ("odd",): 1, "nan": float("nan")}
    )
    loaded = opened(sealed(State("ab", 1, token))).token
    assert loaded.extra["when"] == "2026-01-02"
    assert loaded.refresh_token.reveal() == "r"


def test_extra_that_contains_itself():
    """P12: an extra that contains itself is a StoreError whose frames do not show the tokens."""
    loop: dict = {}
    loop["loop"] = loop
    with pytest.raises(StoreError, match="extra") as error:
        sealed(State("ab", 1, Token("canary-access", extra=loop)))
    assert "canary" not in shown_by_frames_of(error.value)
