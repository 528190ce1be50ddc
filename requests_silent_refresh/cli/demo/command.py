"""The demo's run: a server, a manager, a crowd of threads, and one expiry after another."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from functools import partial

import requests

from ...adapter.adapter import SilentRefreshAdapter
from ...errors import SessionExpired
from ...grants.oauth import RefreshTokenGrant
from ...manager.manager import TokenManager
from ...stores.file import EncryptedFileStore
from ...system.kernel_lock import KernelLock
from ...system.paths import user_directory
from ...testing.server import AuthorizationServer
from .crowd import Crowd
from .expiry import Expiry
from .report import Report, measure
from .screen import Screen
from .snippet import run as run_snippet

_LATENCY = 0.25  # seconds an exchange takes, as on a server that hashes secrets
_TIMEOUT = 60.0  # seconds to wait for a phase to end

_CLIENT_ID = "demo"


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return its exit code."""
    screen = Screen(None if arguments.json else sys.stdout)
    try:
        path = os.path.abspath(os.path.expanduser(arguments.state or _default_state()))
        with _locked(path):
            demo = Demo(arguments, path, screen)
            snippet = None
            if not arguments.only_ours:
                snippet = run_snippet(arguments.threads, _LATENCY, screen)
            report = demo.run()
    except KeyboardInterrupt:
        print("interrupted; the next run continues from here", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError) as error:  # includes requests' errors and ours
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(report.as_json(snippet) if arguments.json else "\n" + report.as_table(snippet))
    return 0 if report.ok else 1


class DemoGrant(RefreshTokenGrant):
    """A grant for the demo's server, which listens on another port each time."""

    identity = "the demo's server"


class Demo:
    """One run. Its ``server`` exists, but does not listen, before :meth:`run` is called."""

    def __init__(self, arguments: argparse.Namespace, path: str, screen: Screen) -> None:
        self.server = AuthorizationServer(
            client_id=_CLIENT_ID, latency=_LATENCY, database=path + ".server"
        )
        self._threads: int = arguments.threads
        self._expiries: int = arguments.expiries
        self._seconds: float = arguments.seconds
        self._path = path
        self._screen = screen

    def run(self) -> Report:
        """Run the demo and return the report."""
        began = time.monotonic()
        with self.server as server:
            self._screen.say(
                f"The server at {server.url} rotates refresh tokens, and revokes the session if "
                "one is used twice."
            )
            manager = self._manager()
            crowd = Crowd(self._threads, partial(_session, manager, server.url), server.resource)
            session = self._begin(manager, crowd)
            try:
                crowd.start()
                self._screen.say(f"{self._threads} threads at work: one session each, one manager.")
                for number in range(1, self._expiries + 1):
                    if not self._expire(number, manager, crowd):
                        break
            finally:
                crowd.stop()
        return Report(
            session=session,
            state=self._path,
            threads=self._threads,
            expiries=self._expiries,
            seconds=time.monotonic() - began,
            requests=sum(crowd.finished),
            failures=sum(crowd.failed),
            first_error=crowd.first_error,
            **measure(server.log, self._expiries),
        )

    def _manager(self) -> TokenManager:
        """Make the manager. Refresh ahead is off, because the demo shows rejected tokens."""
        grant = DemoGrant(self.server.token_endpoint, client_id=_CLIENT_ID, proxies={})
        return TokenManager(grant, store=EncryptedFileStore(self._path), refresh_ahead=0)

    def _begin(self, manager: TokenManager, crowd: Crowd) -> str:
        """Continue the stored session or sign in, make one request, and return which it was."""
        server, screen = self.server, self._screen
        url = server.resource + "/first"
        if not manager.signed_in:
            manager.sign_in(server.sign_in_token())
            how = "signed in"
            screen.say(f"Signed in. The tokens are stored, encrypted, in {self._path}")
        else:
            how = "went on"
        with crowd.session() as session:
            try:
                session.get(url).raise_for_status()
            except SessionExpired:
                # The server's database is gone, or older than our tokens.
                manager.sign_in(server.sign_in_token())
                session.get(url).raise_for_status()
                how = "signed in again"
                screen.say("Signed in again: the server no longer knows the stored session.")
        if how == "went on":
            screen.say(f"Continued without signing in, with the tokens in {self._path}")
        return how

    def _expire(self, number: int, manager: TokenManager, crowd: Crowd) -> bool:
        """Let the threads work, revoke their token, and return whether each phase ended in time."""
        screen = self._screen
        work_until = time.monotonic() + self._seconds
        screen.say("")
        screen.follow(
            lambda: f"expiry {number} of {self._expiries}, after {sum(crowd.finished):,} requests",
            lambda: time.monotonic() >= work_until,
            timeout=self._seconds,
        )
        expiry = Expiry(self.server, manager, crowd)
        try:
            return all(
                screen.follow(phase.line, phase.is_over, _TIMEOUT) for phase in expiry.phases()
            )
        finally:
            expiry.give_up()


def _session(manager: TokenManager, origin: str) -> requests.Session:
    """Return a session, set up as a user would do it."""
    session = requests.Session()
    session.trust_env = False  # no proxy applies to the demo's server on this machine
    SilentRefreshAdapter(manager, origin).mount_on(session)
    return session


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep a second demo off the same state: its server would not know the tokens ours rotates."""
    lock = KernelLock(path + ".demo.lock")
    if not lock.try_acquire():
        holder = lock.holder()
        lock.release()
        raise RuntimeError(
            f"another demo ({holder or 'unknown process'}) is using {path}: "
            "wait for it, or give another --state"
        )
    lock.sign()
    try:
        yield
    finally:
        lock.release()


def _default_state() -> str:
    return os.path.join(user_directory("state"), "demo", "tokens")
