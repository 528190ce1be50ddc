"""docs/command-line.rst and docs/profiles.rst: every command and code block runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from programs import find
from signing_in import PATIENCE, ROOT, home  # noqa: F401 (a fixture)

from requests_silent_refresh import profiles
from requests_silent_refresh.cli import exits
from requests_silent_refresh.profiles import changes
from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def commands():
    """Return the commands of the page, with continuation lines joined."""
    text = "\n".join(blocks("command-line.rst", "console")).replace("\\\n", " ")
    return re.findall(r"^\$ (.*)$", text, re.MULTILINE)


@pytest.fixture
def server():
    with AuthorizationServer(client_id="my-script") as server:
        server.authorizations.device_interval = 0.1
        yield server


@pytest.fixture
def machines():
    with AuthorizationServer(client_id="my-script", client_secret="s3cret") as server:
        yield server


@pytest.fixture
def shell(server, machines, home):  # noqa: F811
    """Run a command as typed; a script acts as the person at the browser and the other device."""
    tools = home / "bin"
    tools.mkdir()
    script(tools / "silent-refresh", "import sys", "from requests_silent_refresh.cli import main",
           "sys.exit(main())")  # fmt: skip
    script(
        tools / "browser",
        "import sys",
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})",
        "from signing_in import answer",
        "answer(sys.argv[1])",
    )

    def decide(request, real):
        server.authorizations.decide(real.payload["user_code"], "ann")

    server.on("/device_authorization", decide)
    given = server.sign_in()
    (home / "tokens.json").write_text(
        f'{{"accessToken": "{given["access_token"]}", "refreshToken": "{given["refresh_token"]}"}}'
    )

    def shell(line):
        for documented, real in {
            "https://auth.example.com": server.url,
            "https://machines.example.com": machines.url,
            "https://api.example.com": server.url,
        }.items():
            line = line.replace(documented, real)
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=home,
            env={
                **os.environ,
                "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "BROWSER": f"{tools / 'browser'} %s",
                "BOT_SECRET": "s3cret",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return shell


def script(path, *lines):
    path.write_text("\n".join([f"#!{sys.executable}", *lines, ""]))
    path.chmod(0o700)


def test_every_command_of_the_page_runs(shell, server):
    """Docs: the commands one after the other, from the first sign-in to the last sign-out."""
    find("curl")
    found = [line for line in commands() if not line.startswith("pip install")]
    for line in found:
        done = shell(line)
        # The JSON API of the page has no revocation endpoint, which the command says.
        told = "the server was not told" if "sign-out shop" in line else ""
        assert done.returncode == 0, (line, done)
        assert told in done.stderr if told else done.stderr == "", (line, done)
    assert {name for line in found for name in re.findall(r"silent-refresh ([a-z-]+)", line)} == {
        "sign-in", "import", "status", "doctor", "token", "refresh", "rotate-key", "sign-out",
        "completion", "providers", "settings", "move",
    }  # fmt: skip
    assert profiles.listed() == ["bot", "work"]
    assert not profiles.load("work").manager.signed_in
    assert server.counters.reuse_detections == 0
    assert server.counters.requests == 1


def test_the_page_lists_every_exit_code():
    """Docs: the table lists exactly the exit codes that the command uses."""
    text = (ROOT / "docs" / "command-line.rst").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^(\d+) {2,}\S", text, re.MULTILINE)}
    assert listed == {value for name, value in vars(exits).items() if name.isupper()}


def test_the_blocks_of_the_profiles_page_run(server, machines, capsys, monkeypatch, home):  # noqa: F811
    """Docs: loading a profile, its manager, an ended session, and settings from a program."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("REPORTS_SECRET", "s3cret")
    grant = {"kind": "refresh_token", "token_endpoint": server.token_endpoint}
    grant |= {"client_id": "my-script", "revocation_endpoint": server.revocation_endpoint}
    changes.sign_in(profiles.Profile("work", [server.url], grant), server.sign_in_token())
    names = {}
    for block in blocks("profiles.rst", "python"):
        code = block.replace("https://api.example.com", server.url)
        code = code.replace("https://auth.example.com", machines.url)
        exec(compile(code, "profiles.rst", "exec"), names)
    status, behind, message = capsys.readouterr().out.splitlines()
    assert status == "200"
    assert behind == "True silent-refresh sign-in work"
    assert message.endswith("; run silent-refresh sign-in work")
    reports = profiles.load("reports")
    assert reports.make_grant()(machines.sign_in_token()).access_token, "the secret was sent"
    assert reports.place == str(home / ".local/state/reports/tokens")
    names["session"].close()


def test_a_proxy_of_the_environment_does_not_see_a_loopback_sign_in(server, shell):
    """P11: plain loopback is safe only if no proxy applies, and the error says so."""
    line = next(line for line in commands() if "sign-in work --issuer" in line)
    done = shell(f"http_proxy=http://127.0.0.1:9 {line}")
    assert done.returncode == exits.SETUP
    assert "a proxy applies" in done.stderr
    assert profiles.listed() == []
