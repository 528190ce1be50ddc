"""The pytest plugin: the fixture ``authorization_server``, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import AuthorizationServer


@pytest.fixture
def authorization_server() -> Iterator[AuthorizationServer]:
    """A running authorization server of this test's own; stopped at its end."""
    from .server import AuthorizationServer

    with AuthorizationServer() as server:
        yield server
