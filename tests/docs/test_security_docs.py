"""The code of docs/security.rst and docs/transports.rst runs as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from wire import manager_of, session_of

from requests_silent_refresh.testing import AuthorizationServer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "count"), [("security.rst", 3), ("transports.rst", 3)])
def test_the_page_runs(page, count):
    """Each block of the page runs after those before it, with a server that is signed in to."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text)
    with AuthorizationServer() as server:
        manager = manager_of(server)
        with session_of(manager, server.url) as session:
            names = {"server": server, "manager": manager, "session": session}
            for block in blocks:
                exec(compile(textwrap.dedent(block), page, "exec"), names)
        assert server.counters.reuse_detections == 0
    assert len(blocks) == count
