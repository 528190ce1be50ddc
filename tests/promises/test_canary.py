"""P12: known secrets pass through every channel, and none of them appears in the output.

The canaries are access tokens, refresh tokens, a client secret and keys of stores.
Everything that a person or a program may see is collected as text, from real failures,
and searched.
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import subprocess
import sys
import textwrap

import canaries
import pytest
import requests
from canaries import PACKAGE, SECRET, Channels
from requests.adapters import BaseAdapter
from wire import Recorder

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    SilentRefreshError,
    Token,
    TokenManager,
    errors,
    redaction,
)
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def server():
    with AuthorizationServer(client_secret=SECRET) as server:
        yield server


@pytest.fixture
def manager(server, tmp_path, channels):
    key = generate_key()
    channels.canaries.add(key)
    grant = RefreshTokenGrant(
        server.token_endpoint,
        "client",
        SECRET,
        revocation_endpoint=server.revocation_endpoint,
        timeout=1,
    )
    manager = TokenManager(grant, store=EncryptedFileStore(tmp_path / "tokens", key=key))
    manager.sign_in(channels.add_token(server.sign_in_token()))
    for thing in (grant, manager, *vars(manager).values()):
        channels.look_at(thing)
    return manager


@pytest.fixture
def session(server, manager):
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url).mount_on(session)
        yield session


def raised(call, *args, **how):
    """Return the exception that ``call`` raises, with its traceback."""
    try:
        call(*args, **how)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_search_finds_what_is_shown():
    """Control: the search finds each form of a canary, also in the locals of a frame."""
    channels = Channels()
    channels.hear(f"Authorization: Bearer {SECRET}")
    channels.hear(base64.b64encode(SECRET.encode()).decode())
    channels.hear(base64.b64encode(f"client:{SECRET}".encode()).decode())
    assert len(channels.found()) >= 3
    channels = Channels()

    def leaks():
        secret = SECRET
        raise LookupError(len(secret))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canaries, "PACKAGE", __file__.rpartition("/")[0])
        channels.look_into(raised(leaks))
    assert channels.found()


def test_a_request_that_succeeds(server, session, manager, channels):
    """P12: request, response, history, adapter and session show no secret after an expiry."""
    channels.look_at_message(session.get(server.resource))
    server.revoke_access_tokens()
    channels.look_at_message(session.post(server.resource, data=b"mine"))
    channels.add_token(manager.token())
    adapter = session.get_adapter(server.url)
    for thing in (adapter, session, manager, manager.token(), manager.stats):
        channels.look_at(thing)
    for part in vars(adapter).values():
        channels.hear(repr(part))
    channels.hear(repr(vars(manager.token())))


FAILURES = {
    "no connection": {"drop": "before"},
    "dropped after": {"drop": "after"},
    "busy": {"status": 503},
    "refused": {"status": 400, "body": '{"error": "invalid_grant"}'},
    "wrong client": {"status": 401, "body": '{"error": "invalid_client"}'},
    "redirect": {"redirect": "http://127.0.0.1:1/"},
    "garbage": {"garbage": True},
    "huge": {"huge": True},
    "silence": {"delay": 3.0},
    "not JSON": {"status": 200, "body": "no object at all"},
    "no token": {"status": 200, "body": "{}"},
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("echoes", [False, True])
def test_a_refresh_that_fails(failure, echoes, server, session, manager, channels):
    """P12: no failed refresh shows a secret, even if the server repeats what it was sent."""
    fault = dict(FAILURES[failure])
    if echoes and "status" in fault:
        token = manager.token()
        fault["body"] = (fault.get("body") or "")[:-1] + (
            f', "error_description": "refresh_token={token.refresh_token.reveal()} is no good", '
            f'"access_token_": "{token.access_token.reveal()}"}}'
        )
    server.fault("token", times=None, **fault)
    server.revoke_access_tokens()
    error = raised(session.post, server.resource, data=b"mine")
    assert isinstance(error, SilentRefreshError)
    channels.look_into(error)
    channels.look_into(raised(session.get, server.resource))


@pytest.mark.parametrize("fault", [{"drop": "before"}, {"raw": b"nonsense"}, {"status": 500}])
def test_a_request_that_fails(fault, server, session, channels):
    """P12: the exceptions of requests and urllib3, which hold the request, show no secret."""
    server.fault("resource", times=None, **fault)

    def fetch():
        session.get(server.resource).raise_for_status()

    channels.look_into(raised(fetch))


def test_a_connection_that_is_refused(manager, channels):
    """P12: the chain of causes and the package's frames in it show no secret."""
    with requests.Session() as session:
        SilentRefreshAdapter(manager, "http://127.0.0.1:1").mount_on(session)
        channels.look_into(raised(session.get, "http://127.0.0.1:1/"))


def test_a_proxy_in_the_way(server, session, channels):
    """P11, P12: the refusal shows no secret, and the proxy receives none."""
    with Recorder() as proxy:
        channels.look_into(raised(session.get, server.resource, proxies={"http": proxy.url}))
        for head in proxy.heads:
            channels.hear(head)


@pytest.mark.parametrize("where", ["is_rejected", "skip", "hook", "transport", "body"])
def test_application_code_that_raises(where, server, manager, channels):
    """P12: if the application's code raises below the package, its frames show no token."""

    def broken(*args, **how):
        raise LookupError("mine")

    class Broken(BaseAdapter):
        send = broken

    options = {where: broken} if where in ("is_rejected", "skip") else {}
    if where == "transport":
        options["transport"] = Broken()
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url, **options).mount_on(session)
        how = {"hooks": {"response": broken}} if where == "hook" else {}
        if where == "body":
            how["data"] = (broken() for _ in "x")
        error = raised(session.post, server.resource, **how)
        assert isinstance(error, LookupError)
        channels.look_into(error)


@pytest.mark.parametrize("what", ["raises", "returns nonsense", "raises what it was given"])
def test_a_refresh_callable_that_fails(what, server, tmp_path, channels):
    """P12: the failure of a refresh callable shows no token, even if its message has one."""

    def refresh(token):
        if what == "returns nonsense":
            return {"access_token": token.access_token.reveal()}
        if what == "raises":
            raise KeyError("mine")
        raise ValueError(f"cannot use refresh_token={token.refresh_token.reveal()}")

    manager = TokenManager(refresh)
    manager.sign_in(channels.add_token(server.sign_in_token()))
    server.revoke_access_tokens()
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url).mount_on(session)
        channels.look_into(raised(session.get, server.resource))


def test_stores_that_fail(server, tmp_path, channels):
    """P12: a wrong key, a damaged file and an unusable key show no secret."""
    right, wrong = generate_key(), generate_key()
    for key in (right, wrong):
        channels.canaries.add(key)
    token = channels.add_token(server.sign_in_token())
    store = EncryptedFileStore(tmp_path / "tokens", key=right)
    store.save(token, after=None)
    channels.look_into(raised(EncryptedFileStore(tmp_path / "tokens", key=wrong).load))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            channels.hear(path.read_bytes().decode("latin-1"))
            path.write_bytes(path.read_bytes()[:-9])
    channels.look_into(raised(EncryptedFileStore(tmp_path / "tokens", key=right).load))
    channels.look_into(raised(EncryptedFileStore, tmp_path / "tokens", key="short"))


def test_tokens_that_are_refused(channels):
    """P12: the error for a token that is not valid in a header does not show the token."""
    bad = "canary-token\nwith-a-line-break"
    channels.canaries.add(bad)
    channels.canaries.add("with-a-line-break")
    for make in (
        lambda: Token(bad),
        lambda: Token("fine", bad),
        lambda: Token.from_response({"access_token": bad}),
        lambda: Token.from_dict({"access_token": bad}),
    ):
        channels.look_into(raised(make))


def test_a_revocation_that_fails(server, manager, channels):
    """P12: a sign-out sends the token to the server and shows it nowhere else."""
    server.fault("revoke", status=503)
    manager.sign_out()
    channels.look_into(raised(manager.token))


def test_every_error_class_hides_secrets(channels):
    """P12: each error class hides secrets that a server put into a description."""
    token = channels.add_token(Token("canary-access-1234567890", "canary-refresh-1234567890"))
    description = f"refresh_token={token.refresh_token.reveal()}"
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    for kind in kinds:
        if issubclass(kind, SilentRefreshError):
            error = kind("words", error_description="fine")
            error.__cause__ = redaction.strip(ValueError(description))
            channels.look_into(error)
            channels.look_into(error.again())


def test_an_applications_own_logging(server, session, manager, channels):
    """P12: logged requests and headers are masked; ``install`` masks the application's text."""

    class Logging(BaseAdapter):
        def send(self, request, **how):
            assert "Authorization" in request.headers
            logging.getLogger("mine").info("%s %r", request.headers, dict(request.headers))
            response = requests.Response()
            response.status_code = 200
            return response

    token = channels.add_token(manager.token())
    response = session.get(server.resource)
    logging.getLogger("mine").info("%s %r", response.request.headers, response.request)
    SilentRefreshAdapter(manager, server.url, transport=Logging()).mount_on(session)
    assert session.get(server.resource).status_code == 200
    stream = io.StringIO()
    logger = logging.Logger("own")  # not a child of the root, whose handlers belong to this test
    logger.addHandler(logging.StreamHandler(stream))
    redaction.install(logger)
    logger.warning("Authorization: Bearer %s", token.access_token.reveal())
    logger.warning("grant_type=refresh_token&refresh_token=%s", token.refresh_token.reveal())
    channels.hear(stream.getvalue())
    assert "***" in stream.getvalue()


def test_the_canaries_were_on_the_wire(server, session, manager):
    """Control: the server received the tokens and the secret that no other channel shows."""
    heard = []
    server.on("/resource", lambda request, answer: heard.append(request.bearer))
    server.on("/token", lambda request, answer: heard.append(request.headers["Authorization"]))
    old = manager.token()
    server.revoke_access_tokens()
    session.get(server.resource)
    assert heard[0] == old.access_token.reveal()
    assert base64.b64decode(heard[1].split()[1]).decode() == f"client:{SECRET}"
    assert heard[2] == manager.token().access_token.reveal()


def test_a_program_that_dies(server, channels, tmp_path):
    """P12: the output of a process that ends with the package's exception shows no secret."""
    token = channels.add_token(server.sign_in_token())
    program = textwrap.dedent(
        """
        import faulthandler, http.client, logging, sys, warnings
        import requests
        from requests_silent_refresh import (
            RefreshTokenGrant, SilentRefreshAdapter, Token, TokenManager,
        )
        logging.basicConfig(level=logging.DEBUG)
        http.client.HTTPConnection.debuglevel = 1
        url, access, refresh, secret = sys.stdin.read().split()
        manager = TokenManager(RefreshTokenGrant(url + "/nowhere", "client", secret))
        manager.sign_in(Token(access, refresh))
        session = requests.Session()
        session.trust_env = False
        SilentRefreshAdapter(manager, url).mount_on(session)
        session.get(url + "/resource/none")
        session.get(url + "/resource")
        """
    )
    server.forbid("/resource/none")
    server.revoke_access_tokens()
    fields = [server.url, token.access_token.reveal(), token.refresh_token.reveal(), SECRET]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        input=" ".join(fields),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PACKAGE.rpartition("/")[0],
        check=False,
    )
    assert done.returncode == 1
    assert "RefreshFailed" in done.stderr
    channels.hear(done.stdout)
    channels.hear(done.stderr)
    with contextlib.suppress(AttributeError):
        channels.look_at(done)
