"""docs/tutorial.rst and docs/cron.rst: their programs and commands, as a new user runs them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

import pytest
from pages import blocks, text_of
from signing_in import answer, home  # noqa: F401 (a fixture)

from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def place(tmp_path):
    """A folder with the programs of both pages."""
    for page in ("tutorial", "cron"):
        for block in blocks(f"docs/{page}.rst"):
            (tmp_path / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
    return tmp_path


@contextlib.contextmanager
def running(place, *command, **options):
    """Start a command of the page in the folder; end it if the test fails."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(place, *command, code=0):
    """Run a command of the page to its end; return what it printed."""
    with running(place, *command, stdin=subprocess.DEVNULL) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        return out + err


def sign_in(place, name, url, client):
    """Run the page's sign-in, as a person who visits the address that it prints."""
    command = ("-m", "requests_silent_refresh", "sign-in", name, "--issuer", url)
    options = ("--client-id", client, "--origin", url, "--no-browser")
    with running(place, *command, *options) as process:
        lines = iter(process.stdout.readline, "")
        answer(next(line.strip() for line in lines if "/authorize?" in line))
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_the_tutorial(place):
    """From nothing to a script that survives the night: server, sign-in, outage, sign-out."""
    page = text_of("docs/tutorial.rst")
    # Another port than the page's may be needed here; every program names it.
    with AuthorizationServer() as free:
        url = free.url
    for name in ("server.py", "night.py", "patient.py"):
        text = (place / name).read_text()
        assert "8400" in text
        (place / name).write_text(text.replace("8400", url.rpartition(":")[2]))

    with running(place, "server.py", stdin=subprocess.PIPE) as server:
        assert f"Listening at {url}" in server.stdout.readline()
        sign_in(place, "night", url, "my-script")
        with running(place, "night.py") as first, running(place, "night.py") as second:
            for script in (first, second):
                out, err = script.communicate(timeout=90)
                assert (out, err) == (f"{[200] * 40}\n", "")
        counters, _ = server.communicate("\n", timeout=30)
    assert "reuse_detections=0" in counters
    assert int(re.search(r"granted=(\d+)", counters)[1]) in (2, 3, 4)

    down = run(place, "night.py", code=1)
    assert "RefreshUnavailable" in down or "ConnectionError" in down
    assert "RefreshUnavailable" in page
    with (
        running(place, "patient.py") as script,
        running(place, "server.py", stdin=subprocess.PIPE) as server,
    ):
        assert script.communicate(timeout=60)[0] == "200\n"
        assert "night" in run(place, "-m", "requests_silent_refresh", "status")
        run(place, "-m", "requests_silent_refresh", "sign-out", "night")
        assert "SessionExpired" in run(place, "night.py", code=1)
        server.communicate("\n", timeout=30)


def test_the_script_for_cron(place):
    """docs/cron.rst: one line when the server is down or the session is over, and exit code 1."""
    with AuthorizationServer(client_id="my-script") as server:
        sign_in(place, "report", server.url, "my-script")
        url = server.resource + "/x"
        assert run(place, "report.py", url) == "/resource/x\n"
        server.revoke_access_tokens()
        server.fault("token", status=503)
        assert re.search("^report: ", run(place, "report.py", url, code=1), re.MULTILINE)
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        said = run(place, "report.py", url, code=1)
        assert "report: please run: silent-refresh sign-in report" in said.splitlines()
    assert os.environ["XDG_STATE_HOME"].startswith(str(place))
