"""What every test runs in: no proxy, no netrc and no directory of the person who runs it."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings
from wire import manager_of, session_of

from requests_silent_refresh.testing import AuthorizationServer

# Engines for the whole run, each started when it is first asked for.
pytest_plugins = ["engines.fixtures"]

_HOME = tempfile.TemporaryDirectory(prefix="requests-silent-refresh-")


def pytest_configure() -> None:
    """Set the environment once, for this process and all that it starts."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = os.path.join(_HOME.name, name.lower())
    os.environ["NETRC"] = os.path.join(_HOME.name, "netrc")
    # A busy machine makes no example wrong; in CI every run tries the same ones.
    settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
    settings.load_profile("suite")


def pytest_unconfigure() -> None:
    """Remove what the tests left there."""
    _HOME.cleanup()


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
