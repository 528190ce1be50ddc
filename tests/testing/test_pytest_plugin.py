"""The pytest plugin, and the page that documents it: every code block of the page runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PLUGIN = "requests_silent_refresh.testing.plugin"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.rst"


def code_blocks() -> list[str]:
    """Return the page's Python blocks, dedented."""
    found = re.findall(
        r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", PAGE.read_text(), re.MULTILINE
    )
    return [textwrap.dedent(block).strip() + "\n" for block in found]


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as an SDK's author would; ``-p`` names the plugin only if it is not installed."""
    installed = any(e.value == PLUGIN for e in entry_points(group="pytest11"))
    return subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c"),
            f"import sys; sys.path.append({str(ROOT)!r}); import pytest; sys.exit(pytest.main())",
            *(() if installed else ("-p", PLUGIN)),
            *("-p", "no:cacheprovider", "-p", "no:randomly", "-q", *arguments),
        ],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_pages_tests_pass_in_another_project(tmp_path):
    """The page's tests, each in its own file, pass with the fixture."""
    blocks = [block for block in code_blocks() if "def test_" in block]
    assert len(blocks) == 5
    for number, block in enumerate(blocks):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    result = run_pytest(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 passed" in result.stdout


def test_the_pages_other_code_runs(capsys):
    """The page's other code block runs as it stands."""
    (block,) = (block for block in code_blocks() if "def test_" not in block)
    exec(compile(block, str(PAGE), "exec"), {})
    assert "/token {" in capsys.readouterr().out


def test_each_test_gets_a_server_of_its_own_that_is_stopped(tmp_path):
    """The fixture gives each test a new, running server and stops it, even if the test fails."""
    (tmp_path / "test_two.py").write_text(
        textwrap.dedent(
            """
            import pytest, requests

            seen = []

            def test_first(authorization_server):
                seen.append(authorization_server)
                authorization_server.sign_in()
                assert requests.get(authorization_server.url + "/open").status_code == 200
                raise RuntimeError("as a test may")

            def test_second(authorization_server):
                assert authorization_server is not seen[0]
                assert authorization_server.counters.sign_ins == 0
                with pytest.raises(requests.ConnectionError):
                    requests.get(seen[0].url + "/open")
            """
        )
    )
    result = run_pytest(tmp_path)
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr


def test_the_fixture_explains_itself(tmp_path):
    """``pytest --fixtures`` describes the fixture."""
    assert "A running authorization server" in run_pytest(tmp_path, "--fixtures").stdout


@pytest.mark.parametrize("module", ["http.server", "requests", "requests_silent_refresh.token"])
def test_the_plugin_costs_nothing_where_it_is_not_used(module):
    """The plugin imports nothing heavy: pytest loads it in every run, even if it is not used."""
    code = f"import pytest, sys; had = set(sys.modules); import {PLUGIN}; "
    code += f"assert {module!r} not in set(sys.modules) - had"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
