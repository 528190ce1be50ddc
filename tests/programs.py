"""Find the programs that some tests need, or say how to install those that are missing."""

from __future__ import annotations

import functools
import glob
import os
import shutil
from typing import NamedTuple

import pytest


class Program(NamedTuple):
    """The Debian package of a program, and what makes a run fail without it."""

    package: str
    required_by: str = "REQUIRE_ENGINES"
    #: A pattern of the directories that have it where ``PATH`` does not name them.
    place: str = "/usr/sbin"


PROGRAMS = {
    "redis-server": Program("redis-server"),
    "postgres": Program("postgresql", place="/usr/lib/postgresql/*/bin"),
    "pgbouncer": Program("pgbouncer"),
    "mariadbd": Program("mariadb-server"),
    "mariadb-install-db": Program("mariadb-server"),
    "chromium": Program("chromium", "REQUIRE_BROWSER"),
    "chromedriver": Program("chromium-driver", "REQUIRE_BROWSER"),
    "curl": Program("curl"),
}


def find(name: str) -> str:
    """Return the path of the program ``name``; skip the test if it is not installed.

    ``REQUIRE_ENGINES=1`` and ``REQUIRE_BROWSER=1`` turn the skip into a failure: in
    CI, a run without the engines must not look like one with them. The reason is the
    same for all programs, so pytest's summary has one line for all tests skipped.
    """
    path = _path(name)
    if path is None:
        packages = dict.fromkeys(p.package for n, p in PROGRAMS.items() if _path(n) is None)
        command = f"apt-get install {' '.join(packages)}"
        if os.environ.get(PROGRAMS[name].required_by):
            pytest.fail(f"{name} is not installed: {command}")
        pytest.skip(f"programs are not installed: {command}")
    return path


@functools.cache
def _path(name: str) -> str | None:
    found = shutil.which(name)
    # The latest version, where there are several.
    for directory in sorted(glob.glob(PROGRAMS[name].place), reverse=True):
        found = found or shutil.which(name, path=directory)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Report skips without their place, so that pytest counts those of one reason in one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = ("tests", None, report.longrepr[2])
    return report
