"""Make the tests independent of the shell that starts them: its environment, umask and signals.

A pytest plugin, loaded by ``conftest.py`` in the process that is started and in
each worker of pytest-xdist.
"""

from __future__ import annotations

import os
import re
import signal
import site
import tempfile

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="requests-silent-refresh-")

# Variables that change where programs connect to, what they trust or how they print.
_FOREIGN = re.compile(
    r"""
    .*_proxy | (REQUESTS|CURL)_CA_BUNDLE | SSL_CERT_(FILE|DIR) | SSLKEYLOGFILE
    | COLUMNS | LINES | NO_COLOR | FORCE_COLOR | PY_COLORS | TTY_(COMPATIBLE|INTERACTIVE)
    | PG[A-Z]+ | PYTHON_KEYRING_BACKEND | DBUS_SESSION_BUS_ADDRESS
    """,
    re.IGNORECASE | re.VERBOSE,
)


def pytest_configure() -> None:
    """Let Ctrl-C and its like interrupt this process, and all that it starts.

    A shell starts its background jobs with SIGINT and SIGQUIT ignored, ``nohup`` with
    SIGHUP ignored, and both are inherited. A signal with a handler is reset by ``exec``
    to its default action, from which Python installs its own handler for SIGINT.
    """
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        *((getattr(signal, name, None), signal.SIG_DFL) for name in ("SIGQUIT", "SIGHUP")),
    ):
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Set the environment and the umask of this process and of all that it starts.

    Not before: pytest's own output keeps the colours and the width that were asked for.
    """
    for name in list(os.environ):
        if _FOREIGN.fullmatch(name):
            del os.environ[name]
    # Packages that pip installed for this user are found by way of HOME.
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())
    for variable, name in (("HOME", "home"), ("XDG_RUNTIME_DIR", "run")):
        os.environ[variable] = os.path.join(_HOME.name, name)
        os.mkdir(os.environ[variable], 0o700)
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = os.path.join(_HOME.name, name.lower())
    os.environ["NETRC"] = os.path.join(_HOME.name, "netrc")
    os.umask(0o022)  # engines run as another user than root, and read what root wrote for them


def pytest_unconfigure() -> None:
    """Remove what the tests left there."""
    _HOME.cleanup()
