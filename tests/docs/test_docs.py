"""The code on the pages in docs/ runs as it stands, and what they say of the code is true."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
from pathlib import Path

import keyring
import keyring.backend
import pytest
import requests
from pages import ROOT, blocks, run, text_of

import requests_silent_refresh
from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.rst"))

# Each of these yields the names that a page starts with, and then checks what the page left.


@contextlib.contextmanager
def signed_in(request):
    """Start a server, and make a manager that is signed in there and a session."""
    with AuthorizationServer(client_id="nightly-report") as server, requests.Session() as session:
        manager = TokenManager(
            RefreshTokenGrant(server.token_endpoint, client_id="nightly-report"), refresh_ahead=0
        )
        manager.sign_in(server.sign_in())
        SilentRefreshAdapter(manager, server.url, pool_maxsize=16).mount_on(session)
        yield {"server": server, "manager": manager, "session": session}
        assert server.counters.reuse_detections == 0


@contextlib.contextmanager
def reporting(request):
    """Do the same for the page whose code prints the errors it catches."""
    capsys = request.getfixturevalue("capsys")
    with signed_in(request) as names:
        yield names
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("try again in 1")
    assert printed[1] == "the session is over: invalid_grant"


class Vault(keyring.backend.KeyringBackend):
    """A keyring that stores nothing, so that no test changes the keyring of the user."""

    priority = 1
    get_password = set_password = delete_password = lambda self, *words: None


@contextlib.contextmanager
def vault(request):
    """Replace the keyring, and restore the environment variables that the page sets."""
    home, environment, capsys = map(request.getfixturevalue, ("tmp_path", "monkeypatch", "capsys"))
    for name in ("REPORT_TOKEN_KEY", "REPORT_PASSPHRASE"):
        environment.setenv(name, "")
    before = keyring.get_keyring()
    keyring.set_keyring(Vault())
    try:
        yield {}
    finally:
        keyring.set_keyring(before)
    assert "is not among" in capsys.readouterr().out
    assert (home / ".local/state/nightly-report/tokens").exists()
    if os.name == "posix" and os.uname().sysname == "Linux":
        key = home / ".local/share/requests-silent-refresh/keys/default.key"
        assert len(key.read_text().split()) == 2  # the page says where it is, and adds one
    (quarantined,) = (home / ".local/state/rotation").glob("tokens.quarantine.*")
    assert quarantined.stat().st_size > 100


@contextlib.contextmanager
def root_logger_kept():
    """Take the handlers off the root logger, to which the page adds one, for as long."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield root
    finally:
        root.handlers[:], root.level = handlers, level


@contextlib.contextmanager
def root_logger(request):
    """The page adds a handler to the root logger, which must get the filter."""
    with root_logger_kept() as root:
        yield {}
        assert root.handlers
        assert all(handler.filters for handler in root.handlers)


@contextlib.contextmanager
def root_logger_and_sign_in(request):
    """Do both."""
    capsys = request.getfixturevalue("capsys")
    package = logging.getLogger("requests_silent_refresh")
    level = package.level
    with root_logger_kept(), signed_in(request) as names:
        yield names
    package.setLevel(level)
    assert capsys.readouterr().out == "RefreshFailed 400 invalid_scope\n"


# The code of the other pages runs elsewhere: tutorial.rst and cron.rst in test_tutorial.py,
# platforms.rst in tests/platforms, coming-from-*.rst in test_coming_from.py, command-line.rst and
# profiles.rst in test_cli_docs.py, fleet.rst in test_fleet_docs.py, grants.rst in
# tests/grants/test_grants.py, and testing.rst in tests/testing/test_pytest_plugin.py.
@pytest.mark.parametrize(
    ("page", "count", "start"),
    [
        ("debugging.rst", 3, root_logger_and_sign_in),
        ("origins.rst", 2, root_logger),
        ("outcomes.rst", 5, reporting),
        ("proxy.rst", 1, signed_in),
        ("queue.rst", 3, signed_in),
        ("scraper.rst", 1, signed_in),
        ("sdk.rst", 1, signed_in),
        ("security.rst", 3, signed_in),
        ("stores.rst", 12, vault),
        ("transports.rst", 3, signed_in),
    ],
)
def test_the_page_runs(page, count, start, request, monkeypatch, tmp_path):
    """Each block of the page runs after those before it, in a home directory of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    code = blocks(f"docs/{page}")
    assert len(code) == count
    with start(request) as names:
        names["__name__"] = "page"
        for block in code:
            run(block, page, names)


def test_the_numbers_of_the_pages_are_those_of_the_code():
    """A limit that is changed in the code has to be changed on its page."""
    from requests_silent_refresh.grants import protocol
    from requests_silent_refresh.manager import backoff, current, futility, unsaved_token

    outcomes = " ".join(text_of("docs/outcomes.rst").split())
    assert f"up to {backoff.BACKOFF_CAP:g} s" in outcomes
    assert f"up to {backoff.RETRY_AFTER_CAP / 60:g} minutes" in outcomes
    assert backoff.STORE_BACKOFF == unsaved_token.SAVE_RETRY == 0.5
    assert f"for {futility.FIRST_MUTE:g} s" in outcomes
    assert f"up to {futility.MUTE_CAP:g} s" in outcomes
    assert futility.FUTILE_PER_MINUTE == 6
    queue = " ".join(text_of("docs/queue.rst").split())
    assert f"exchange {protocol.EXCHANGE_TIMEOUT:g} s in all" in queue
    assert f"at most {current.AHEAD_CAP / 60:g} minutes before its end" in queue
    assert f"In the last {current.LEEWAY_CAP:g} s" in queue


def test_the_index_lists_every_page_and_every_folder():
    """A reader finds each page in the index, and each folder of the package in its tree."""
    index = text_of("docs/index.rst")
    listed = re.findall(r"^   ([\w-]+)$", index, re.MULTILINE)
    assert sorted(f"docs/{name}.rst" for name in [*listed, "index"]) == PAGES
    package = Path(requests_silent_refresh.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("[!_]*.py")}
    assert set(re.findall(r"^        (\w+)/", index, re.MULTILINE)) == folders
    assert set(re.findall(r"\b\w+\.py\b", index)) == modules | {"test_layers.py"}


@pytest.mark.parametrize("page", ["README.rst", *PAGES])
def test_a_page_names_modules_that_exist(page):
    """A dotted name of the package, in code or in prose, can be imported."""
    for name in set(re.findall(r"\brequests_silent_refresh(?:\.\w+)+", text_of(page))):
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.import_module(name), name
