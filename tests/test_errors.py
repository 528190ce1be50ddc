"""The exception tree: what an old ``except`` still catches, and what pickling keeps."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import requests

import requests_silent_refresh as package
from requests_silent_refresh import errors
from requests_silent_refresh.errors import (
    InsecureTransport,
    RefreshFailed,
    RefreshTimeout,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    WrongIdentity,
    WrongKey,
)

CANARY = "canary-0123456789abcdef"

EVERY = [
    SilentRefreshError("base", error="e", error_description="d", status_code=400, retry_after=1.5),
    SessionExpired("sign in again", error="invalid_grant", status_code=400),
    RefreshFailed("fix the client secret", error="invalid_client", status_code=401),
    RefreshUnavailable("try again", status_code=503, retry_after=30.0),
    RefreshTimeout("still running"),
    InsecureTransport("use https"),
    StoreError("no"),
    WrongKey("another key", stored_key_id="aa", key_ids=("bb", "cc")),
    WrongIdentity("another server", stored_identity="https://a/token", identity="https://b/token"),
    StoreCorrupted("half a file"),
    StoreUnavailable("locked", holder="process 5 since 12:00"),
]


def test_every_class_is_in_the_list() -> None:
    """P12: a class added to the module must be added to the list above."""
    classes = {
        c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert classes == {type(error) for error in EVERY}


@pytest.mark.parametrize("error", EVERY, ids=lambda e: type(e).__name__)
def test_an_old_except_catches_it(error: SilentRefreshError) -> None:
    """P13: every error is a ``requests.RequestException`` and has a public name."""
    assert isinstance(error, requests.RequestException)
    assert isinstance(error, SilentRefreshError)
    assert getattr(package, type(error).__name__) is type(error)


def test_the_tree_is_as_documented() -> None:
    """P13: ``except HTTPError`` and ``except Timeout`` in old programs keep working."""
    assert issubclass(SessionExpired, requests.HTTPError)
    assert issubclass(RefreshTimeout, requests.Timeout)
    for kind in (WrongKey, WrongIdentity, StoreCorrupted, StoreUnavailable):
        assert issubclass(kind, StoreError)
    for kind in (RefreshFailed, RefreshUnavailable, InsecureTransport, StoreError):
        assert not issubclass(kind, (requests.HTTPError, requests.Timeout))


def test_a_program_can_branch_on_attributes() -> None:
    """P6: the token endpoint's fields are attributes, which are None if it sent none."""
    error = EVERY[0]
    assert (error.error, error.error_description) == ("e", "d")
    assert (error.status_code, error.retry_after) == (400, 1.5)
    bare = SilentRefreshError("bare")
    assert {bare.error, bare.error_description, bare.status_code, bare.retry_after} == {None}
    assert (bare.request, bare.response) == (None, None)
    assert str(bare) == "bare"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain words", "plain words"),
        ("two\nlines\r\n\tand\x00 a bell\x07", "two lines and a bell"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("right\u202eleft\u2028line", "right left line"),
        ("x" * 100_000, "x" * 200),
        ("", None),
        ("\n\n", None),
        (None, None),
        (5, None),
        (["a"], None),
        ({"a": 1}, None),
    ],
)
def test_a_servers_text_becomes_one_printable_line(said: Any, kept: str | None) -> None:
    """P12: a server's text cannot move a terminal's cursor, forge a log line or fill a disk."""
    error = SessionExpired("x", error=said, error_description=said)
    assert (error.error, error.error_description) == (kept, kept)


@pytest.mark.parametrize(
    "kind", sorted({type(error) for error in EVERY}, key=str), ids=lambda k: k.__name__
)
def test_an_error_needs_no_message(kind: type[SilentRefreshError]) -> None:
    """P6: ``raise SessionExpired`` in a callable raises it, and the copy for each waiter too."""
    with pytest.raises(kind) as caught:
        raise kind
    assert str(caught.value) == str(caught.value.again()) == ""


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        *(("120", 120.0), (" 1.5", 1.5), (7, 7.0), ("soon", None), ("", None), ("nan", None)),
        *((float("inf"), None), (b"5x", None), ([], None), (None, None), (10**400, None)),
    ],
)
def test_retry_after_is_a_number(given: Any, seconds: float | None) -> None:
    """P6: a callable that passes the header's text on does not break the backoff."""
    assert RefreshUnavailable("busy", retry_after=given).retry_after == seconds


def _with_everything(error: SilentRefreshError) -> SilentRefreshError:
    """Give ``error`` a cause, and a request and a 401 as the adapter does."""
    response = requests.Response()
    response.status_code = 401
    response.raw = threading.Lock()  # like a socket, it cannot be pickled
    error.response = response
    error.request = requests.Request("POST", "http://a/", cookies={"sid": CANARY}).prepare()
    error.__cause__ = requests.ConnectionError("refused")
    return error


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EVERY, ids=lambda e: type(e).__name__)
def test_pickling_keeps_the_message_and_attributes(
    error: SilentRefreshError, protocol: int
) -> None:
    """P12: type, message and attributes are pickled; cookies and connections are not."""
    data = pickle.dumps(_with_everything(error), protocol)
    again = pickle.loads(data)
    expected = {**vars(error), "request": None, "response": None}
    assert type(again) is type(error)
    assert (again.args, vars(again)) == (error.args, expected)
    assert CANARY.encode() not in data


def _fail() -> None:
    raise EVERY[1]


def test_an_error_is_raised_from_a_worker_process() -> None:
    """P13: a pool of processes raises the typed error in its caller."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(SessionExpired, match="sign in again") as caught:
            pool.submit(_fail).result()
        assert caught.value.error == "invalid_grant"


@pytest.mark.parametrize("twin_of", [lambda e: e.again(), copy.copy], ids=["again", "copy"])
@pytest.mark.parametrize("error", EVERY, ids=lambda e: type(e).__name__)
def test_a_copy_has_everything_but_the_traceback(error: SilentRefreshError, twin_of: Any) -> None:
    """P6: each waiter raises its own object, with the same attributes and the same cause."""
    _with_everything(error)
    try:
        raise error
    except SilentRefreshError:
        twin = twin_of(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert (twin.args, vars(twin)) == (error.args, vars(error))
    assert twin.__cause__ is error.__cause__
    assert twin.__traceback__ is None
    twin.response = None
    assert error.response is not None


def test_threads_that_raise_copies_do_not_mix_their_tracebacks() -> None:
    """P6: one failure raised in eight threads has one frame in each, not one of all."""
    error = RefreshUnavailable("down")
    error.__cause__ = OSError("refused")
    barrier, lengths = threading.Barrier(8), []

    def wait() -> None:
        try:
            barrier.wait(10)
            raise error.again()
        except RefreshUnavailable as mine:
            barrier.wait(10)
            lengths.append(len(traceback.extract_tb(mine.__traceback__)))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert lengths == [1] * 8


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Remove what a test added to the shared examples."""
    yield
    for error in EVERY:
        error.request = error.response = error.__cause__ = None
        error.with_traceback(None)
