"""Fixtures and settings of all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from wire import manager_of, session_of

from requests_silent_refresh.testing import AuthorizationServer

pytest_plugins = ["canaries", "engines.fixtures", "programs", "surroundings", "workers"]


def pytest_configure() -> None:
    """Configure Hypothesis."""
    # A busy machine makes no example wrong; in CI every run tries the same ones.
    settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
    settings.load_profile("suite")


@pytest.fixture
def server():
    """A server of the test's own; a file that needs another kind says so itself."""
    with AuthorizationServer() as server:
        yield server


@pytest.fixture
def manager(server):
    """A manager that is signed in there."""
    return manager_of(server)


@pytest.fixture
def session(server, manager):
    """A session whose requests to the server carry the manager's token."""
    with session_of(manager, server.url) as session:
        yield session
