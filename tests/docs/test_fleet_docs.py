"""The code of docs/fleet.rst runs as it stands, on a Redis and a database."""

from __future__ import annotations

from engines.fleet import KEY
from pages import blocks, run

from requests_silent_refresh import EncryptedFileStore, Token
from requests_silent_refresh.keys import generate_key

# Not in test_docs.py, so that the workers of pytest-xdist can run it with the other tests of
# engines, which are started once.


def test_the_page_runs(tmp_path, monkeypatch, capsys, redis_server, sqlite):
    """Each block of the page runs after those before it, in a home directory of its own."""
    redis_server.empty()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DATABASE_URL", sqlite.url)
    monkeypatch.setenv("FLEET_KEY", KEY)
    monkeypatch.setenv("FLEET_KEY_BEFORE", generate_key())
    EncryptedFileStore("~/.local/state/nightly-report/tokens").save(Token("a", "r"), None)
    code, names = blocks("docs/fleet.rst"), {"__name__": "page"}
    assert len(code) == 4
    for block in code:
        run(block, "fleet.rst", names)
    assert "CREATE TABLE silent_refresh_tokens" in capsys.readouterr().out
    names["store"].close()
