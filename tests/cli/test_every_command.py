"""Every command, as click lists them, with closed streams, at odd widths and without a terminal."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from signing_in import ROOT, home  # noqa: F401 (a fixture)

from requests_silent_refresh.cli import exits
from requests_silent_refresh.cli.app import app
from requests_silent_refresh.profiles import Profile, changes
from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")

CODES = {value for name, value in vars(exits).items() if name.isupper()}
#: The arguments of each command, for the signed-in profile ``work``.
ARGUMENTS = {
    "sign-in": ["work", "--device", "--timeout", "1"],
    "status": [],
    "token": ["work"],
    "refresh": ["work"],
    "sign-out": ["work", "--forget"],
    "import": ["work"],
    "providers": ["google"],
    "rotate-key": ["work"],
    "settings": ["work"],
    "move": ["work", "--store", "file:elsewhere"],
    "reset": ["work"],
    "doctor": [],
    "demo": ["--threads", "2", "--expiries", "1", "--seconds", "0", "--only-ours"],
    "completion": ["bash"],
}


@pytest.fixture
def work():
    """A profile that is signed in."""
    with AuthorizationServer() as server:
        profile = Profile(
            "work",
            [server.url],
            {
                "kind": "refresh_token",
                "token_endpoint": server.token_endpoint,
                "client_id": "client",
                "revocation_endpoint": server.revocation_endpoint,
            },
            sign_in={"device_authorization_endpoint": server.device_authorization_endpoint},
        )
        changes.sign_in(profile, server.sign_in_token())
        yield profile


def command(name):
    return [sys.executable, "-m", "requests_silent_refresh", name, *ARGUMENTS[name]]


def check(code, text):
    assert code in CODES, text
    assert "Traceback" not in text
    assert "\x1b" not in text.replace("\x1b[2K", "").replace("\x1b[1m", "").replace("\x1b[0m", "")


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("name", app.list_commands(None))
@pytest.mark.parametrize(
    ("redirection", "settings"),
    [
        (">&-", {"LANG": "C", "LC_ALL": "C"}),
        ("<&-", {"COLUMNS": "40", "NO_COLOR": "1"}),
        ("<&- >&- 2>&-", {}),
        ("</dev/null 2>/dev/full >/dev/full", {}),
    ],
)
def test_streams_that_are_closed_or_full(work, environment, tmp_path, name, redirection, settings):
    """No traceback, and a documented exit code, whatever the shell did to the streams."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command(name)],
        env={**environment, **settings}, cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    check(done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("name", app.list_commands(None))
@pytest.mark.parametrize("columns", [40, 200])
def test_a_terminal_of_another_width(work, environment, tmp_path, name, columns):
    """No traceback at 40 or 200 columns, and no line of a table is wider than the terminal."""
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        process = subprocess.Popen(
            command(name), env=environment, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=child, stderr=child,
        )  # fmt: skip
        os.close(child)
        seen = b""
        while True:
            try:
                more = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            seen += more
        check(process.wait(60), seen.decode(errors="replace"))
    finally:
        os.close(parent)
    if name == "status":
        assert max(map(len, seen.decode().splitlines())) <= columns


def test_every_command_is_tried():
    """A new command gets its arguments here."""
    assert set(ARGUMENTS) == set(app.list_commands(None))
