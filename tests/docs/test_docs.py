"""The code of docs/outcomes.rst and docs/queue.rst runs as it stands, against the real server."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import requests

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)

# Other pages need a home directory, a keyring or an engine, and have tests of their own.
PAGES = {"outcomes.rst": 5, "queue.rst": 2}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, capsys):
    """Each block runs after those before it, with a server, a manager and a session at hand."""
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(blocks) == PAGES[page]
    with AuthorizationServer(client_id="nightly-report") as server, requests.Session() as session:
        manager = TokenManager(
            RefreshTokenGrant(server.token_endpoint, client_id="nightly-report"), refresh_ahead=0
        )
        manager.sign_in(server.sign_in())
        SilentRefreshAdapter(manager, server.url, pool_maxsize=16).mount_on(session)
        names = {"server": server, "manager": manager, "session": session, "__name__": "page"}
        for block in blocks:
            exec(compile(textwrap.dedent(block), page, "exec"), names)
    if page == "outcomes.rst":
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("try again in 1")
        assert said[1] == "the session is over: invalid_grant"


def test_the_numbers_of_the_page_are_those_of_the_code():
    """Whoever changes one changes the other."""
    from requests_silent_refresh.grants import protocol
    from requests_silent_refresh.manager import backoff, current, futility, unsaved_token

    outcomes = " ".join((DOCS / "outcomes.rst").read_text("utf-8").split())
    assert f"up to {backoff.BACKOFF_CAP:g} s" in outcomes
    assert backoff.RETRY_AFTER_CAP == 5 * 60
    assert backoff.STORE_BACKOFF == unsaved_token.SAVE_RETRY == 0.5
    assert f"for {futility.FIRST_MUTE:g} s" in outcomes
    assert f"up to {futility.MUTE_CAP:g} s" in outcomes
    assert futility.FUTILE_PER_MINUTE == 6
    queue = " ".join((DOCS / "queue.rst").read_text("utf-8").split())
    assert f"exchange {protocol.EXCHANGE_TIMEOUT:g} s in all" in queue
    assert current.AHEAD_CAP == 5 * 60
    assert f"In the last {current.LEEWAY_CAP:g} s" in queue
