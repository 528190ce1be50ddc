"""The programs of docs/platforms.rst, each written to a file of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.testing import AuthorizationServer

PAGE = Path(__file__).parents[2] / "docs" / "platforms.rst"


@pytest.fixture
def program(tmp_path):
    """Write the page's program whose first line is a comment with ``name``; return its path."""

    def write(name):
        found = re.search(rf"^    # {re.escape(name)}\n(?:    .*\n|\n)+", PAGE.read_text(), re.M)
        path = tmp_path / name
        path.write_text(re.sub("^    ", "", found[0], flags=re.M), encoding="utf-8")
        return path

    return write


@pytest.fixture
def surroundings(server, tmp_path):
    """The environment of the programs: a home of their own, and what they read from it."""
    return {
        **os.environ,
        "HOME": str(tmp_path),
        "API": server.url,
        "TOKEN_ENDPOINT": server.token_endpoint,
        "TOKEN_KEY": generate_key(),
    }


@pytest.fixture
def server():
    """A server with the client of the page's programs."""
    with AuthorizationServer(client_id="report") as server:
        yield server
