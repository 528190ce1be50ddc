"""Helpers for the sign-in tests: a home directory, a terminal, and a person at a browser."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import keyring.backend
import pytest
import requests

from requests_silent_refresh import profiles
from requests_silent_refresh.system.kernel_lock import KernelLock
from requests_silent_refresh.testing import AuthorizationServer

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds; reached only if something hangs


class Done(NamedTuple):
    """A finished command: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Give the test its own directories, and neither a browser nor a display."""
    for kind in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    while _started:  # processes that a failed test left behind
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


_started: list[subprocess.Popen[str]] = []


def files_in(home: Path) -> dict[str, bytes]:
    """Return the content of every file below ``home``, except for lock files."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


class InMemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that exists only while a test runs."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def keyring_in_memory() -> Iterator[InMemoryKeyring]:
    """Make an empty keyring in memory the operating system's keyring."""
    before, backend = keyring.get_keyring(), InMemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


@contextlib.contextmanager
def every_lock_held(home: Path) -> Iterator[set[str]]:
    """Hold each lock file below ``home``, and yield their names."""
    with contextlib.ExitStack() as stack:
        paths = sorted(home.rglob("*.lock"))
        for path in paths:
            lock = KernelLock(str(path))
            stack.callback(lock.release)
            lock.acquire(PATIENCE)
        yield {path.name for path in paths}


class Terminal:
    """The command, run as a separate process."""

    def __init__(self, *arguments: str, stdin: str | None = None, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "requests_silent_refresh", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _started.append(self.process)
        if stdin is not None:
            self.process.stdin.write(stdin)
            self.process.stdin.close()
            self.process.stdin = None
        self._said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def find(self, pattern: str) -> str:
        """Wait until a line of the output matches ``pattern``, and return the match."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                raise AssertionError(f"no {pattern!r} in {self._said} {self.process.stderr.read()}")
            self._said.append(line)
            if found := re.search(pattern, line):
                return found[0]

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> Done:
        """Wait for the process to end."""
        code = self.process.wait(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self._said.append(line)
        err = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return Done(code, "".join(self._said), err)


def run(*arguments: str, stdin: str | None = None, **environment: str) -> Done:
    """Run the command to its end."""
    return Terminal(*arguments, stdin=stdin, **environment).finish()


def one_line(done: Done) -> str:
    """Check that stderr is one line and not a traceback, and return it."""
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done
    assert lines[0].startswith("silent-refresh: ")
    assert "Traceback" not in done.err
    return lines[0]


def set_up(server: AuthorizationServer) -> list[str]:
    """Return the options that create a profile for ``server``."""
    return ["--issuer", server.issuer, "--client-id", "client", "--origin", server.url]


def answer(url: str, decision: str = "allow", username: str = "ann") -> requests.Response:
    """Submit the login page as a person would, and return the final page."""
    fields = dict(parse_qsl(urlsplit(url).query))
    action = url.partition("?")[0]
    return requests.post(
        action, {**fields, "username": username, "decision": decision}, timeout=PATIENCE
    )


def come_back(url: str, **changes: Any) -> requests.Response:
    """Call the redirect URI of the authorization request ``url``, with ``changes`` to the fields.

    ``None`` leaves a field out.
    """
    asked = dict(parse_qsl(urlsplit(url).query))
    fields = {"state": asked["state"], "code": "code-made-up"} | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    return requests.get(asked["redirect_uri"], params=fields, timeout=PATIENCE)


def send_through_ten_expiries(server: AuthorizationServer, session: requests.Session) -> None:
    """Send requests as the profile ``work``, each with an expired token; all must succeed."""
    profiles.load("work").mount_on(session)
    for _ in range(10):
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200
    assert server.counters.granted == 10
    assert server.counters.reuse_detections == 0


def sign_in(server: AuthorizationServer, name: str = "work", *options: str) -> Done:
    """Sign in to a profile from a terminal; the person at the browser allows it."""
    terminal = Terminal("sign-in", name, *set_up(server), *options)
    page = answer(terminal.find(r"http\S+/authorize\S+"))
    done = terminal.finish()
    assert (done.code, done.err) == (0, ""), done
    assert "Signed in" in page.text
    return done
