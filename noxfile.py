"""Run the tests on every Python and with the oldest dependencies, and the linters: ``nox``."""

from __future__ import annotations

import configparser
import tempfile
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.options.sessions = ["tests", "lower_bounds", "lint", "docs"]
nox.options.error_on_missing_interpreters = True


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on the installed package."""
    session.install(".[test]")
    session.run("pytest", *session.posargs, env={"PYTHONDEVMODE": "1"})


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def lower_bounds(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that setup.cfg allows."""
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    with tempfile.TemporaryDirectory() as directory:
        bounds = Path(directory) / "lower.txt"
        bounds.write_text(setup["options"]["install_requires"].replace(">=", "=="))
        session.install("--constraint", str(bounds), ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run the linter, and check the formatting and the types."""
    session.install(".[lint,test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``site/``; a warning is an error."""
    session.install(".[docs]")
    session.run("sphinx-build", "-q", "-W", "-n", "docs", "site")
