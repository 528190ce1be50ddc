"""Sign-in with a browser on another machine, and what the response and requests carry besides."""

from __future__ import annotations

import socket
import subprocess
import sys
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from signing_in import PATIENCE, ROOT, come_back, home, set_up  # noqa: F401 (home is a fixture)

from requests_silent_refresh import profiles
from requests_silent_refresh.cli import exits
from requests_silent_refresh.sign_in.browser import with_browser
from requests_silent_refresh.sign_in.client import Client, SignInFailed
from requests_silent_refresh.sign_in.device import with_device
from requests_silent_refresh.sign_in.redirect import LoopbackRedirect

HTTPS = "https://localhost:3000/callback"


class Person:
    """Visits the URL, and pastes ``lines`` in which ``{address}`` is where the browser ended."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.heard = []
        self.address = ""

    def show(self, url, opening):
        asked = dict(parse_qsl(urlsplit(url).query))
        query = urlencode({"code": "made-up", "state": asked["state"]})
        self.address = f"{asked['redirect_uri']}?{query}"

    def read_line(self, seconds):
        if not self.lines:
            return ""
        line = self.lines.pop(0)
        return None if line is None else line.format(address=self.address) + "\n"


def paste(server, person, redirect_uri=HTTPS, **options):
    server.on("/token", lambda request, answer: answer.but(status=200, payload=server.sign_in()))
    kept = []
    client = options.pop("client", Client(server.token_endpoint, "client"))
    token = with_browser(
        client,
        server.authorization_endpoint,
        person.show,
        kept.append,
        redirect_uri=redirect_uri,
        read_line=person.read_line,
        say=person.heard.append,
        open_browser=False,
        **{"timeout": 10.0, **options},
    )
    assert kept == [token]
    return token


@pytest.mark.parametrize("uri", [HTTPS, "http://127.0.0.1/callback", "https://app.example.com"])
def test_the_pasted_address_signs_in(server, uri):
    """Sign-in: whatever the redirect URI is, nothing listens there."""
    person = Person("{address}")
    paste(server, person, redirect_uri=uri)
    assert person.heard == []


def test_a_wrong_line_is_explained_and_asked_for_again(server):
    """Sign-in: an address of another sign-in, a part of one, and an empty line."""
    person = Person("https://localhost:3000/callback?code=x&state=other", "", None, "code=x")
    person.lines.append("  '{address}'  ")
    paste(server, person)
    assert len(person.heard) == 2
    assert "whole address" in person.heard[0]


def test_nothing_pasted_ends_the_sign_in(server):
    """Sign-in: the end of the input, and the end of the time."""
    with pytest.raises(SignInFailed, match="was not pasted"):
        paste(server, Person())
    with pytest.raises(SignInFailed, match="nobody signed in"):
        paste(server, Person(*[None] * 100000), timeout=0.01)


@pytest.mark.parametrize("uri", ["ftp://x/y", "https://", "https://a/b#c", "callback"])
def test_another_kind_of_redirect_uri_is_refused(server, uri):
    """Sign-in: before anything is shown."""
    with pytest.raises(ValueError, match="redirect URI"):
        paste(server, Person(), redirect_uri=uri)


def test_further_fields_of_the_response_are_kept(server):
    """QuickBooks names the company only there; the token's own fields take precedence."""
    person = Person("{address}&realmId=4620816365&access_token=forged&iss=x&user=callback")
    token = paste(server, person)
    assert token.extra["realmId"] == "4620816365"
    assert token.extra["user"] == "callback"
    assert {"code", "state", "iss", "access_token"}.isdisjoint(token.extra)
    assert token.access_token.reveal() != "forged"
    assert "4620816365" not in repr(token)


def test_extra_and_resource_are_sent_when_the_code_is_exchanged(server):
    """RFC 8707: also a value from a source; a template for a token is left out."""
    forms = []
    client = Client(
        server.token_endpoint,
        "client",
        parameters={"resource": "https://api.example.com", "prompt": "consent"},
        extra={"audience": lambda: "a", "old": "{refresh_token}"},
    )

    def exchange(request, answer):
        forms.append(dict(request.form))
        return answer.but(status=200, payload=server.sign_in())

    person = Person("{address}")
    server.on("/token", exchange)
    with_browser(
        client,
        server.authorization_endpoint,
        person.show,
        lambda token: None,
        redirect_uri=HTTPS,
        read_line=person.read_line,
        open_browser=False,
    )
    assert forms[0]["resource"] == "https://api.example.com"
    assert forms[0]["audience"] == "a"
    assert {"prompt", "old"}.isdisjoint(forms[0])


def test_extra_and_resource_are_sent_in_the_device_flow(server):
    """RFC 8707: in the request for the code, and when it is exchanged."""
    forms = []
    client = Client(
        server.token_endpoint,
        "client",
        parameters={"resource": "https://api.example.com"},
        extra={"audience": "a"},
    )
    for path in ("/device_authorization", "/token"):
        server.on(path, lambda request, answer: forms.append(dict(request.form)))
    with_device(
        client,
        server.device_authorization_endpoint,
        lambda code: server.authorizations.decide(code.user_code, "ann"),
        lambda left: None,
        pause=lambda seconds: None,
        monotonic=iter(range(0, 1000, 5)).__next__,
    )
    assert len(forms) == 2
    for form in forms:
        assert (form["resource"], form["audience"]) == ("https://api.example.com", "a")


def test_a_container_listens_where_its_port_is_forwarded_to():
    """``bind``: another address than that of the redirect URI, which then needs a port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LoopbackRedirect(f"http://localhost:{port}/callback", "s", "127.0.0.2") as redirect:
        assert redirect.uri == f"http://localhost:{port}/callback"
        with pytest.raises(requests.ConnectionError):
            requests.get(redirect.uri, timeout=PATIENCE)
        page = requests.get(f"http://127.0.0.2:{port}/callback?state=x", timeout=PATIENCE)
        assert page.status_code == 400
    with pytest.raises(ValueError, match="port"):
        LoopbackRedirect("http://localhost/callback", "s", "0.0.0.0")


@pytest.fixture
def command(server, home):  # noqa: F811
    """Start a sign-in whose person pastes; yields the process."""

    def command(*options):
        return subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-W",
                    "error",
                    "-m",
                    "requests_silent_refresh",
                    "sign-in",
                    "work",
                ),
                *(*set_up(server), "--no-browser", "--timeout", "20", *options),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return command


@pytest.mark.parametrize(
    "options", [["--paste"], ["--redirect-uri", HTTPS]], ids=["paste", "https"]
)
def test_the_command_takes_the_pasted_address(server, command, options):
    """``--paste``, which an https redirect URI implies."""
    server.on("/token", lambda request, answer: answer.but(status=200, payload=server.sign_in()))
    process = command(*options)
    said = ""
    while "Paste the address" not in said:
        said += process.stdout.readline()
    url = next(word for word in said.split() if "/authorize?" in word)
    asked = dict(parse_qsl(urlsplit(url).query))
    process.stdin.write("nonsense\n")
    process.stdin.write(
        f"{asked['redirect_uri']}?code=c&state={asked['state']}&iss={server.issuer}\n"
    )
    process.stdin.flush()
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    assert "copy the whole address" in out
    assert "Signed in to work" in out
    assert profiles.load("work").manager.signed_in


def test_a_command_without_input_ends(command):
    """Nobody can paste anything: exit code 6, and one line."""
    process = command("--paste")
    out, _ = process.communicate("", timeout=PATIENCE)
    assert process.returncode == exits.NOT_COMPLETED
    assert out.splitlines()[-1].startswith("silent-refresh: ")
    assert "was not pasted" in out


def test_a_response_to_an_open_listener_still_needs_the_state(server):
    """``bind`` opens the port to others; what they send is ignored."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LoopbackRedirect(f"http://127.0.0.1:{port}/", "right", "0.0.0.0") as redirect:
        url = f"http://x/?{urlencode({'redirect_uri': redirect.uri, 'state': 'wrong'})}"
        assert come_back(url).status_code == 400
        with pytest.raises(SignInFailed, match="were ignored"):
            redirect.wait(0.05, lambda left: None)
