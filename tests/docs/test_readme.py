"""The code of README.rst and docs/origins.rst runs as it stands, against the real server."""

from __future__ import annotations

import ast
import logging
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from requests_silent_refresh.testing import AuthorizationServer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def blocks(name: str) -> list[str]:
    """Return the Python blocks of a page, in order."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [textwrap.dedent(block) for block in BLOCK.findall(text)]


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(client_id="nightly-report") as running:
        yield running


def run(code: str, names: dict[str, Any], server: AuthorizationServer, directory: Path) -> None:
    """Run a block; its URLs and its file are replaced by the server's and the test's own."""
    for written, meant in {
        "https://auth.example.com/oauth2/token": server.token_endpoint,
        "https://api.example.com/me": server.resource,
        "https://api.example.com": server.url,
        "~/.local/state/nightly-report": str(directory),
    }.items():
        code = code.replace(written, meant)
    exec(compile(code, "README.rst", "exec"), names)


def test_the_readme_runs(
    server: AuthorizationServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P2: signing in once, the two lines, an expiry unseen, and the errors, block by block."""
    setup, sign_in, two_lines, under_responses, errors = blocks("README.rst")
    names: dict[str, Any] = {"answer": server.sign_in()}

    run(setup, names, server, tmp_path)
    run(sign_in, names, server, tmp_path)
    module = types.ModuleType("report_session")
    module.adapter = names["adapter"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "report_session", module)

    server.revoke_access_tokens()
    run(two_lines, names, server, tmp_path)
    seen = ast.literal_eval(capsys.readouterr().out)
    assert (seen["method"], seen["path"]) == ("GET", "/resource")
    assert (server.counters.rejected, server.counters.granted) == (1, 1)

    run(errors, names, server, tmp_path)
    assert capsys.readouterr().out == ""
    names["manager"].sign_out()
    run(errors, names, server, tmp_path)
    assert capsys.readouterr().out == "sign in again: None\n"

    exec(under_responses, names)
    names["test_an_expired_token_is_not_seen"]()


def test_a_second_start_goes_on_without_a_sign_in(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    """P4: the README's ``if not manager.signed_in`` is false from the second start on."""
    setup, sign_in, *_ = blocks("README.rst")
    names: dict[str, Any] = {"answer": server.sign_in()}
    run(setup + sign_in, names, server, tmp_path)
    again: dict[str, Any] = {}
    run(setup + sign_in, again, server, tmp_path)
    assert again["manager"].signed_in


def test_the_page_on_origins_runs() -> None:
    """P11: what the page says of URLs is what the code says, and the filter masks."""
    origins, logs = blocks("docs/origins.rst")
    exec(origins, {})
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        exec(logs, {})
        assert all(handler.filters for handler in root.handlers)
    finally:
        root.handlers[:], root.level = handlers, level


def test_the_first_lines_are_the_two_commands_of_ci() -> None:
    """The README has the two commands that .ci/run reads from it, and no other."""
    commands = re.findall(r"^    \$ (.*)$", (ROOT / "README.rst").read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("-m requests_silent_refresh demo")
    assert commands[1].endswith("pytest")


@pytest.mark.parametrize("name", ["README.rst", "docs/index.rst"])
def test_a_page_names_files_that_exist(name: str) -> None:
    """A reader who follows the README finds what it names."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for mentioned in re.findall(r"``((?:docs/)?[\w-]+\.(?:rst|md))``", text):
        folder = ROOT if "/" in mentioned or mentioned.endswith(".md") else (ROOT / name).parent
        assert (folder / mentioned).is_file(), mentioned
