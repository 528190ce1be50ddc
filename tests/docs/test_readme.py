"""The code of README.rst runs as it stands, against a real server."""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest

from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(client_id="nightly-report") as running:
        yield running


def run(code: str, names: dict[str, Any], server: AuthorizationServer, directory: Path) -> None:
    """Run a block with its URLs and its directory replaced by those of the test."""
    for written, replacement in {
        "https://auth.example.com/oauth2/token": server.token_endpoint,
        "https://api.example.com/me": server.resource,
        "https://api.example.com": server.url,
        "~/.local/state/nightly-report": str(directory),
    }.items():
        code = code.replace(written, replacement)
    pages.run(code, "README.rst", names)


def test_the_readme_runs(
    server: AuthorizationServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P2: one sign-in, the two lines, an expiry that goes unnoticed, and the errors."""
    setup, sign_in, two_lines, under_responses, errors = pages.blocks("README.rst")
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

    pages.run(under_responses, "README.rst", names)
    names["test_an_expired_token_goes_unnoticed"]()


def test_a_second_start_needs_no_sign_in(server: AuthorizationServer, tmp_path: Path) -> None:
    """P4: the README's ``if not manager.signed_in`` is false from the second start on."""
    setup, sign_in, *_ = pages.blocks("README.rst")
    names: dict[str, Any] = {"answer": server.sign_in()}
    run(setup + sign_in, names, server, tmp_path)
    again: dict[str, Any] = {}
    run(setup + sign_in, again, server, tmp_path)
    assert again["manager"].signed_in


def test_the_readme_has_the_two_commands_of_ci() -> None:
    """The README has the two commands that .ci/run reads from it, and no other."""
    commands = re.findall(r"^    \$ (.*)$", pages.text_of("README.rst"), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("-m requests_silent_refresh demo")
    assert commands[1].endswith("pytest")


@pytest.mark.parametrize("name", ["README.rst", "docs/index.rst"])
def test_a_page_names_files_that_exist(name: str) -> None:
    """A reader who follows the README finds the files and sections it names."""
    text, here = pages.text_of(name), (pages.ROOT / name).parent
    for mentioned in re.findall(r"``((?:docs/)?[\w-]+\.(?:rst|md))``", text):
        folder = pages.ROOT if "/" in mentioned or mentioned.endswith(".md") else here
        assert (folder / mentioned).is_file(), mentioned
    for target, section in re.findall(r"<([^>\s]+\.rst)#([\w-]+)>", text):
        assert section.replace("-", " ") in (here / target).read_text("utf-8").lower().splitlines()
