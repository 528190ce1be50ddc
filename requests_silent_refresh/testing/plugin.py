"""The pytest plugin: the fixture ``authorization_server``; the server is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import AuthorizationServer


@pytest.fixture
def authorization_server() -> Iterator[AuthorizationServer]:
    """A running authorization server for this test, stopped when the test ends."""
    from .server import AuthorizationServer

    with AuthorizationServer() as server:
        yield server
