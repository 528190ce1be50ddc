"""What ``import requests_silent_refresh`` and its first uses load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import requests_silent_refresh

HEAVY = ["cryptography", "filelock", "platformdirs", "argon2", "keyring", "redis", "sqlalchemy"]
HEAVY += ["click", "rich", "pytest", "http.server", "sqlite3", "multiprocessing", "asyncio"]


def loaded_by(code: str) -> set[str]:
    """Return the modules that ``code`` loads in a fresh interpreter, beyond those of requests."""
    program = (
        "import sys, requests, http.client, threading, logging\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_import_loads_the_package_and_nothing_else() -> None:
    """P14: ``import requests_silent_refresh`` costs one small file on top of requests."""
    assert loaded_by("import requests_silent_refresh") == {"requests_silent_refresh"}


@pytest.mark.parametrize(
    "names",
    [
        "SilentRefreshAdapter, TokenManager, Token, MemoryStore",
        "RefreshTokenGrant, ClientCredentialsGrant, JSONRefresh",
        "SessionExpired, RefreshTimeout, StoreUnavailable, Origin, Secret",
    ],
)
def test_the_common_names_load_no_backend(names: str) -> None:
    """P14: adapter, manager, grants and errors load neither ``cryptography`` nor an extra."""
    modules = loaded_by(f"from requests_silent_refresh import {names}")
    assert not [name for name in HEAVY if name in modules]


def test_the_pytest_plugin_loads_little_until_it_is_used() -> None:
    """P14: pytest loads the plugin in every run if the package is installed."""
    modules = loaded_by(
        "import pytest, sys\nbefore |= set(sys.modules)\n"
        "import requests_silent_refresh.testing.plugin"
    )
    assert modules <= {
        "requests_silent_refresh",
        "requests_silent_refresh.testing",
        "requests_silent_refresh.testing.plugin",
    }


def test_every_public_name_can_be_imported() -> None:
    """P13: each name in ``__all__`` can be imported, is listed by ``dir`` and loads once."""
    for name in requests_silent_refresh.__all__:
        assert getattr(requests_silent_refresh, name) is getattr(requests_silent_refresh, name)
    assert set(requests_silent_refresh.__all__) <= set(dir(requests_silent_refresh))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        requests_silent_refresh.missing
