"""The types that hold secrets, causes without secrets, and the logging filter (P12)."""

from __future__ import annotations

import copy
import dataclasses
import errno
import gc
import http.client
import http.server
import io
import json
import logging
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from requests_silent_refresh import redaction
from requests_silent_refresh.errors import SessionExpired, WrongKey
from requests_silent_refresh.redaction import HeaderValue, MaskedDict, Secret, redact, strip

CANARY = "canary-0123456789abcdef"


# --- Secret, HeaderValue ---------------------------------------------------------------


def test_only_reveal_shows_a_secret() -> None:
    """P12: repr, str and every kind of formatting show the mask."""
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret:>40}", "%s" % secret]  # noqa: UP031
    shown += [repr([secret]), "{}".format({"k": secret}), ascii(secret), repr(dir(secret))]
    assert not [text for text in shown if CANARY in text]
    assert f"[{secret:>5}]" == "[  ***]"
    assert secret.reveal() == CANARY


def test_a_secret_is_equal_only_to_itself() -> None:
    """P12: secrets are not compared by accident, which would leak their timing."""
    secret, twin = Secret(CANARY), Secret(CANARY)
    assert secret != twin
    assert secret != CANARY
    assert len({secret, twin}) == 2


def test_a_secret_cannot_be_changed() -> None:
    """P12: so it can be shared without a copy."""
    secret = Secret(CANARY)
    # Its one attribute is private, and must be tried to show that it cannot be changed either.
    for name in ("_Secret__value", "other"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(secret, name, "x")
    with pytest.raises(AttributeError, match="cannot be changed"):
        del secret._Secret__value  # type: ignore[attr-defined]
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    assert secret.reveal() == CANARY


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_cannot_be_pickled(protocol: int) -> None:
    """P12: pickling, alone or in a container, raises a ``TypeError`` that says what to do."""
    with pytest.raises(TypeError, match="pickle the manager"):
        pickle.dumps({"token": Secret(CANARY)}, protocol)
    with pytest.raises(TypeError):
        json.dumps(Secret(CANARY))


@pytest.mark.parametrize("value", [None, 5, b"canary", ["canary"], Secret("canary")])
def test_a_secret_must_be_a_string(value: Any) -> None:
    """P12: anything else raises a ``TypeError`` that names the type but not the value."""
    with pytest.raises(TypeError, match=rf"^a secret must be a str, not {type(value).__name__}$"):
        Secret(value)


def test_fingerprints_tell_secrets_apart_in_one_process_only() -> None:
    """P12: they are 8 hex digits, equal for equal text, but different in another process."""
    mine = Secret(CANARY).fingerprint
    assert mine == redaction.fingerprint(CANARY)
    assert len(mine) == 8
    assert mine != Secret(CANARY + "x").fingerprint
    assert redaction.fingerprint("lone \ud800 surrogate") != redaction.fingerprint("")
    code = f"from requests_silent_refresh.redaction import *; print(fingerprint({CANARY!r}))"
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert len(theirs.strip()) == 8
    assert theirs.strip() != mine


def test_a_header_value_is_a_string_with_a_masked_repr() -> None:
    """P12: the transport gets the value, but printing or pickling a request does not show it."""
    value = HeaderValue(f"Bearer {CANARY}")
    request = requests.Request("GET", "http://a/", headers={"Authorization": value}).prepare()
    assert f"{value}" == f"Bearer {CANARY}"
    assert value.encode("latin-1") == f"Bearer {CANARY}".encode()
    assert request.headers["Authorization"] is value
    assert CANARY not in repr(request.headers)
    assert CANARY not in f"{value!r} {[value]} {value!a}"
    assert CANARY.encode() not in pickle.dumps(request)
    assert copy.deepcopy(request).headers["Authorization"] == value
    assert copy.copy(value) is value


def test_a_masked_dictionary_shows_its_keys() -> None:
    """P12: a payload among a frame's locals shows its keys but not its values."""
    fields = MaskedDict({"access_token": CANARY, 5: CANARY})  # type: ignore[dict-item]
    assert repr(fields) == str(fields) == "{'access_token': ***, 5: ***}"
    assert repr(MaskedDict()) == "{}"
    assert fields["access_token"] == CANARY


# --- strip -----------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers 500 with the request's body, and sends too few bytes for /short."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500)
        self.send_header("Content-Length", str(len(body) + (5 if self.path == "/short" else 0)))
        self.send_header("X-Token", CANARY)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """A URL where no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


SECRETS = {"refresh_token": CANARY}


def _refused(echo: str, nobody: str) -> None:
    secret = {"Authorization": f"Basic {CANARY}"}
    requests.post(f"{nobody}/token?refresh_token={CANARY}", data=SECRETS, headers=secret)


def _status(echo: str, nobody: str) -> None:
    requests.post(f"{echo}/?access_token={CANARY}", data=SECRETS).raise_for_status()


def _not_json(echo: str, nobody: str) -> None:
    requests.post(f"{echo}/", data=f"<{CANARY}>").json()


def _cut_off(echo: str, nobody: str) -> None:
    requests.post(f"{echo}/short", data=SECRETS)


def _incomplete_read(echo: str, nobody: str) -> None:
    connection = http.client.HTTPConnection(echo.removeprefix("http://"))
    connection.request("POST", "/short", body=CANARY)
    response = connection.getresponse()
    try:
        response.read()
    finally:
        response.close()
        connection.close()


def _urllib(echo: str, nobody: str) -> None:
    try:
        urllib.request.urlopen(f"{echo}/", data=CANARY.encode())
    except urllib.request.HTTPError as error:
        error.close()
        raise


def _command(echo: str, nobody: str) -> None:
    code = "import sys; print(input()); sys.exit(3)"
    command = [sys.executable, "-c", code]
    subprocess.run(command, input=CANARY, capture_output=True, text=True, check=True)


def _decode(echo: str, nobody: str) -> None:
    f"{CANARY}\xff".encode("latin-1").decode()


def _encode(echo: str, nobody: str) -> None:
    f"{CANARY}\ud800".encode()


def _chain(echo: str, nobody: str) -> None:
    try:
        _refused(echo, nobody)
    except requests.RequestException as error:
        try:
            _not_json(echo, nobody)
        except ValueError:
            raise RuntimeError("both failed", error) from error


class Unprintable(Exception):
    """An exception whose ``__str__`` raises."""

    def __str__(self) -> str:
        raise ZeroDivisionError(CANARY)


def _unprintable(echo: str, nobody: str) -> None:
    raise Unprintable({"token": CANARY})


FAILURES = [
    _refused,
    _status,
    _not_json,
    _cut_off,
    _incomplete_read,
    _urllib,
    _command,
    _decode,
    _encode,
    _chain,
    _unprintable,
]


def _everything(error: BaseException) -> Iterator[str]:
    """Yield every text that an exception, and all that it refers to, can show."""
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    yield from captured.format()
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        thing = todo.pop()
        if thing is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, BaseException):
            todo += [thing.__cause__, thing.__context__, thing.__traceback__]
            todo += [getattr(thing, "object", None)]
            todo += [*vars(thing).values(), *thing.args]
        elif isinstance(thing, (list, tuple, set)):
            todo += thing
        elif isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        else:
            yield repr(thing)
            if hasattr(thing, "__dict__"):
                todo.append(vars(thing))


@pytest.mark.parametrize("fail", FAILURES)
def test_a_stripped_cause_holds_no_secret(fail: Any, echo: str, nobody: str) -> None:
    """P12: no message, chain, argument, attribute or frame of a real failure has the canary."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fail(echo, nobody)
    error = caught.value
    kind, frames = type(error), error.__traceback__
    assert frames is not None
    assert strip(error) is error
    assert type(error) is kind
    assert error.__traceback__ is None
    assert not [text for text in _everything(error) if CANARY in text]


def test_a_stripped_cause_still_says_what_happened(nobody: str) -> None:
    """P12: the types along the chain are kept, and the operating system's error."""
    with pytest.raises(requests.ConnectionError) as caught:
        _refused("", nobody)
    error = strip(caught.value)
    assert isinstance(error, requests.ConnectionError)
    assert str(error) == ""
    inner = error.__context__
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__context__ or inner.__cause__
    assert isinstance(inner, ConnectionRefusedError)
    assert str(inner) == f"[Errno {errno.ECONNREFUSED}] Connection refused"


def test_an_error_of_ours_keeps_its_attributes() -> None:
    """P6: the attributes that a program branches on are kept, with their types."""
    error = WrongKey("no", stored_key_id="aa", key_ids=("bb", "cc"), status_code=400, error="e")
    before = dict(vars(error))
    strip(error)
    assert (vars(error), str(error)) == (before, "no")


def test_given_secrets_are_masked_wherever_they_are_quoted() -> None:
    """P12: a server's text and a program's message may quote the token; short text is kept."""
    secret = Secret("canary/0123+456")
    error = SessionExpired(
        f"answered 400: {secret.reveal()} is gone", error_description=f"{secret.reveal()}!"
    )
    error.__cause__ = KeyError(secret.reveal(), ["canary%2F0123%2B456"])
    strip(error, hide=(secret, None, Secret("gone")))
    assert str(error) == "answered 400: *** is gone"
    assert error.error_description == "***!"
    assert "canary" not in repr(error.__cause__)


def test_a_stripped_cause_keeps_no_connection(echo: str) -> None:
    """P12: the exception keeps neither the response nor the adapter's pool alive."""
    with requests.Session() as session:
        session.mount("http://", adapter := requests.adapters.HTTPAdapter())
        with pytest.raises(requests.HTTPError) as caught:
            session.post(echo, data=SECRETS).raise_for_status()
    error = caught.value
    response, pool = weakref.ref(error.response), weakref.ref(adapter)
    strip(error)
    caught, session, adapter = None, None, None  # type: ignore[assignment]
    gc.collect()
    assert response() is None
    assert pool() is None


def test_the_members_of_a_group_are_stripped(echo: str, nobody: str) -> None:
    """P12: the members of an ``ExceptionGroup`` (Python 3.11) have no canary."""
    if sys.version_info < (3, 11):
        pytest.skip("no exception groups before Python 3.11")
    members: list[Exception] = []
    for fail in (_refused, _status):
        with pytest.raises(requests.RequestException) as caught:
            fail(echo, nobody)
        members.append(caught.value)
    group = ExceptionGroup(f"access_token={CANARY}", members)  # noqa: F821
    told = strip(group)
    assert type(told) is ExceptionGroup  # noqa: F821
    assert not [text for text in _everything(told) if CANARY in text]
    assert all(member.__traceback__ is None for member in members)
    assert not [text for member in members for text in _everything(member) if CANARY in text]


class Slotted(Exception):
    """An exception that keeps what it was given outside its dictionary."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception whose attributes cannot be set."""

    token: str


class Driver(OSError):
    """A foreign exception that looks like one of the operating system."""


FOREIGN = [
    lambda: RuntimeError(CANARY),
    lambda: RuntimeError({"token": CANARY}, [CANARY], b"canary"),
    lambda: KeyError(CANARY),
    lambda: OSError(CANARY),
    lambda: FileNotFoundError(errno.ENOENT, CANARY, CANARY, None, CANARY),
    lambda: OSError(1_234_567, CANARY),
    lambda: Driver(errno.ENOENT, CANARY, CANARY),
    lambda: socket.gaierror(-2, CANARY),
    lambda: ssl.SSLError(1, CANARY),
    lambda: UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
    lambda: UnicodeEncodeError("ascii", CANARY, 0, 1, CANARY),
    lambda: ImportError(CANARY, name=CANARY, path=CANARY),
    lambda: SyntaxError(CANARY, (CANARY, 1, 1, CANARY)),
    lambda: AttributeError(CANARY, name=CANARY, obj=CANARY),
    lambda: StopIteration(CANARY),
    lambda: SystemExit(CANARY),
    lambda: json.JSONDecodeError("bad", CANARY, 0),
    lambda: subprocess.CalledProcessError(1, [CANARY], CANARY, CANARY),
    lambda: http.client.IncompleteRead(CANARY.encode(), 5),
    lambda: requests.HTTPError(CANARY, request=CANARY, response=CANARY),
    lambda: Slotted(CANARY),
    lambda: Frozen(CANARY),
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("place", ["itself", "__cause__", "__context__", "attribute"])
def test_a_foreign_exception_keeps_its_type_only(make: Any, place: str) -> None:
    """P12: whatever its text, notes and attributes quote, at any place of the chain."""
    error = make()
    vars(error)["__notes__"] = [CANARY]
    BaseException.__cause__.__set__(error, ValueError(CANARY))  # type: ignore[attr-defined]
    kept: BaseException = error
    if place != "itself":
        kept = WrongKey("the key is wrong")
        setattr(kept, place, error)
    assert strip(kept) is kept
    assert not [text for text in _everything(kept) if CANARY in text]
    assert [c for c in _shown_members(error) if "canary" in c] == []
    assert isinstance(error.__cause__, ValueError)


def _shown_members(error: BaseException) -> Iterator[str]:
    """Yield every attribute of an exception, also those outside its dictionary."""
    for name in dir(error):
        if name not in ("__doc__", "__class__", "__init__"):
            yield f"{name}={getattr(error, name, None)!r}"


@pytest.mark.parametrize("kind", [WrongKey, type("Mine", (SessionExpired,), {})])
def test_an_error_of_ours_keeps_its_text_but_quotes_no_object(kind: Any) -> None:
    """P12: a callable may raise one of ours, of a class of its own, and with anything in it."""
    error = kind({"token": CANARY})
    error.answer = requests.Response()
    strip(error)
    assert error.args == ("dict",)
    assert error.answer is None
    assert str(strip(kind(f"no {CANARY}", error="e"), hide=[Secret(CANARY)])) == "no ***"


def test_a_circular_chain_is_stripped() -> None:
    """P8: a cycle of causes, an exception among its own arguments, and notes do no harm."""
    one, two = ValueError("one"), ValueError("two", SECRETS)
    one.__cause__, two.__context__ = two, one
    one.args = ("one", one)
    two.__notes__ = [CANARY]  # type: ignore[attr-defined]
    strip(one)
    assert two.__context__ is one
    assert CANARY not in "".join(map(str, _everything(two)))


# --- redact and the filter -------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization:Bearer {CANARY}",
        f"Authorization: Basic {CANARY}==",
        f"Authorization: DPoP {CANARY}",
        f"Authorization: {CANARY}",
        f"Proxy-Authorization: Basic {CANARY}",
        f"{{'Authorization': 'Bearer {CANARY}'}}",
        f"{{'Authorization': 'token {CANARY}', 'Accept': '*/*'}}",
        f"('Authorization', 'Basic {CANARY}')",
        f"[(b'Authorization', b'Basic {CANARY}')]",
        f"send: b'GET / HTTP/1.1\\r\\nAuthorization: Basic {CANARY}\\r\\n\\r\\n'",
        f"got bearer {CANARY} from",
        f'{{"access_token": "{CANARY}", "expires_in": 5}}',
        f'{{"accessToken":"{CANARY}"}}',
        f"{{'refresh_token': '{CANARY}'}}",
        f'b\'{{"id_token": "{CANARY}"}}\'',
        f'"{{\\"access_token\\": \\"{CANARY}\\"}}"',
        f'{{"refresh_token": "ab\\/{CANARY}"}}',
        f'{{"code": "{CANARY}"}}',
        f'{{"token": "{CANARY}"}}',
        f"grant_type=refresh_token&refresh_token={CANARY}&client_id=me",
        f"b'client_secret={CANARY}&x=y'",
        f"https://api/?access_token={CANARY}",
        f"https://api/cb?code={CANARY}&state=x",
        f"password={CANARY}",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9." + CANARY,
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    """P12: in headers, JSON, forms, query strings, http.client's debug output and JWTs."""
    assert "***" in redact(text)
    assert CANARY not in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the token endpoint answered 503",
        "refresh token rejected, basic settings kept",
        "exit code=1 status_code: 200",
        "expires_in=3600&scope=read",
        '{"token_type": "Bearer", "expires_in": 3600}',
        "grant_type=refresh_token&client_id=me",
        "GET /tokens/me HTTP/1.1",
        'WWW-Authenticate: Bearer realm="api", error="invalid_token"',
    ],
)
def test_what_does_not_look_like_a_credential_is_kept(text: str) -> None:
    """P12: a log stays readable."""
    assert redact(text) == text


@given(st.text(max_size=200))
def test_redacting_never_raises_and_is_idempotent(text: str) -> None:
    """P12: for any text, a second pass masks nothing more."""
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "template",
    [
        "refresh_token: {}",
        "body=%7B%22refresh_token%22%3A%22{}%22%7D",
        "GET /cb?next=%2Fx%3Faccess_token%3D{}",
        "Set-Cookie: session={}",
        "X-Api-Key: {}",
        "proxy http://user:{}@proxy:3128",
        'Authorization: Token token="{}"',
        "Client(client_secret='{}')",
        "refresh_token = '{}'",
        "APP_REFRESH_TOKEN={}",
    ],
)
def test_credentials_in_other_notations_are_masked(template: str) -> None:
    """P12: YAML, encoded text, cookies, headers with keys, URLs, arguments and variables."""
    text = redact(template.format("s3cr3t-value-0123456789"))
    assert "s3cr3t" not in text
    assert "***" in text


def test_data_of_a_record_is_masked() -> None:
    """P12: ``extra=`` fields that a JSON formatter writes, nested or as bytes."""
    handler = logging.NullHandler()
    logger = logging.getLogger("test_data_of_a_record")
    logger.addHandler(handler)
    redaction.install(logger)
    record = logging.LogRecord("app", 30, "x.py", 1, "sent", (), None)
    vars(record).update(
        headers={"Authorization": "Bearer " + CANARY, "Accept": "*/*"},
        body=b"refresh_token=" + CANARY.encode(),
        nested=[({"APP_REFRESH_TOKEN": CANARY, "n": 7},)],
    )
    assert handler.filter(record)
    assert CANARY not in str(vars(record))
    assert vars(record)["headers"]["Accept"] == "*/*"
    assert vars(record)["nested"][0][0]["n"] == 7
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "piece",
    [
        *("eyJ-", "eyJ.", "Authorization: ", "authorization=a ", '"token":', "\\'token", "bearer "),
        *("x-a-", "x-key: ", "cookie: a", "://a:", "token%3a", "token = ", "a.b", "password: a\n"),
    ],
)
def test_redacting_takes_linear_time(piece: str) -> None:
    """P8: any log line of 256 KiB is redacted in less than a second."""
    began = time.process_time()
    redact(piece * (2**18 // len(piece)))
    assert time.process_time() - began < 1.0


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """A configured root logger separate from the tests' own, and its output."""
    written = io.StringIO()
    logger = logging.RootLogger(logging.DEBUG)
    logger.manager = logging.Manager(logger)  # type: ignore[misc]
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(message)s %(body)s", defaults={"body": "-"}))
    logger.addHandler(handler)
    return logger, written


def test_the_filter_masks_messages_tracebacks_and_extras(
    log: tuple[logging.Logger, io.StringIO], echo: str
) -> None:
    """P12: also in a child's records: arguments, ``exc_info``, ``stack_info``, ``extra``."""
    logger, written = log
    redaction.install(logger)
    child = logger.manager.getLogger("application.http")
    child.debug("headers %s", {"Authorization": f"Bearer {CANARY}"})
    child.info("body", extra={"body": f"refresh_token={CANARY}"})
    child.info("100%% of %s", "it")
    try:
        _status(echo, "")
    except requests.HTTPError:
        child.exception("failed for refresh_token=%s", CANARY, stack_info=True)
    text = written.getvalue()
    assert CANARY not in text
    assert "{'Authorization': 'Bearer ***'}" in text
    assert "body refresh_token=***" in text
    assert "100% of it" in text
    assert "HTTPError: 500" in text
    assert "Stack (most recent call last)" in text


def test_the_filter_does_not_change_a_harmless_record(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    """P13: message, arguments and ``exc_info`` reach other handlers unchanged."""
    logger, _ = log
    redacting = redaction.install(logger)
    try:
        raise ValueError("harmless")
    except ValueError:
        record = logger.makeRecord(
            "application", logging.INFO, __file__, 1, "count %d", (5,), sys.exc_info()
        )
    assert redacting.filter(record)
    assert (record.msg, record.args) == ("count %d", (5,))
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


def test_a_custom_formatter_gets_no_secret(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    """P12: if a traceback was masked, no formatter sees the unmasked one."""
    logger, _ = log
    redacting = redaction.install(logger)
    try:
        raise ValueError(f"refresh_token={CANARY}")
    except ValueError:
        record = logger.makeRecord("a", logging.INFO, __file__, 1, "m", (), sys.exc_info())
    assert redacting.filter(record)
    assert record.exc_info is None
    assert record.exc_text is not None
    assert record.exc_text.endswith("ValueError: refresh_token=***")


class Faulty:
    """An argument of a log call that cannot be formatted."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("%d", ("x",)), ("%s %s", ("x",)), ("%(a)s", ({},)), ("%s", (Faulty(),))],
)
def test_a_broken_log_call_does_not_break_the_application(
    log: tuple[logging.Logger, io.StringIO],
    message: str,
    arguments: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P13: logging itself reports the error, as without the filter."""
    logger, _ = log
    redaction.install(logger)
    logger.info(message, *arguments)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_installing_twice_adds_one_filter_to_each_handler(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    """P12: a handler added in between gets the filter the second time."""
    logger, _ = log
    first = redaction.install(logger)
    late = logging.NullHandler()
    logger.addHandler(late)
    assert redaction.install(logger) is first
    assert [h.filters for h in logger.handlers] == [[first], [first]]


def test_without_a_handler_the_last_resort_is_masked() -> None:
    """P12: warnings are masked even if the program configured no logging."""
    code = (
        "import logging; from requests_silent_refresh import redaction; redaction.install()\n"
        f"logging.getLogger('x').warning('refresh_token=%s', {CANARY!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "refresh_token=***\n"
