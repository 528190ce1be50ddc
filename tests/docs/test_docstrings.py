"""The examples in docstrings run as they stand, and every public class has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import requests

import requests_silent_refresh
from requests_silent_refresh import Token, TokenManager, keys, profiles, secret_sources, testing

MODULES = [
    found.name
    for found in pkgutil.walk_packages(requests_silent_refresh.__path__, "requests_silent_refresh.")
    if not found.name.endswith("__main__")
]
PUBLIC = {
    f"{module.__name__.rpartition('.')[2]}.{name}": thing
    for module in (requests_silent_refresh, keys, profiles, secret_sources, testing)
    for name in getattr(module, "__all__", None) or vars(module)
    if inspect.isclass(thing := getattr(module, name))
    and thing.__module__.startswith("requests_silent_refresh.")
    and not name.startswith("_")
    # One example shows how all errors are caught; a profile's error is one of them.
    and (not issubclass(thing, Exception) or name == "SilentRefreshError")
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_class_has_an_example(name):
    """The docstring of every public class contains an example."""
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or "")


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module, tmp_path, monkeypatch):
    """They may use the package's public names, ``requests`` and a signed-in ``manager``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    manager = TokenManager(lambda token: Token("second", "next"))
    manager.sign_in(Token("first", "refresh"))
    names = {
        name: getattr(requests_silent_refresh, name) for name in requests_silent_refresh.__all__
    }
    failures, _ = doctest.testmod(
        importlib.import_module(module),
        extraglobs={**names, "requests": requests, "manager": manager},
        optionflags=doctest.ELLIPSIS,
        verbose=False,
    )
    assert failures == 0
