"""The code of docs/fleet.rst runs as it stands, on a Redis and a database."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from engines.fleet import KEY

from requests_silent_refresh import EncryptedFileStore, Token
from requests_silent_refresh.keys import generate_key

PAGE = Path(__file__).parents[2] / "docs" / "fleet.rst"


def test_the_page_runs(tmp_path, monkeypatch, capsys, redis_server, sqlite):
    """Each block of the page runs after those before it, in a home directory of its own."""
    redis_server.empty()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DATABASE_URL", sqlite.url)
    monkeypatch.setenv("FLEET_KEY", KEY)
    monkeypatch.setenv("FLEET_KEY_BEFORE", generate_key())
    EncryptedFileStore("~/.local/state/nightly-report/tokens").save(Token("a", "r"), None)
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page)
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(textwrap.dedent(block), str(PAGE), "exec"), names)
    assert len(blocks) == 4
    assert "CREATE TABLE silent_refresh_tokens" in capsys.readouterr().out
    names["store"].close()
