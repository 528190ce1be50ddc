"""``demo``: many threads, a server that rotates, and tokens that end while they are in flight."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import SessionExpired
from ..grants import RefreshTokenGrant
from ..locks import KernelLock
from ..manager import TokenManager
from ..stores.file import EncryptedFileStore
from ..testing.server import AuthorizationServer
from .crowd import Crowd
from .expiry import Expiry, Phase
from .report import Report, measure
from .screen import Screen

_LATENCY = 0.25  # seconds an exchange takes, as at a server that hashes secrets
_PATIENCE = 60.0  # seconds after which a phase is given up

_LONGEST = 3000  # seconds; the server's tokens live an hour, and none may expire by itself

_CLIENT_ID = "demo"


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "demo",
        help="watch threads work through expiring tokens, against a server of its own",
        description=(
            "Starts a server on loopback that rotates refresh tokens and revokes the whole "
            "session when one is used twice. Threads work against it, and again and again the "
            "server ends their access token while a request of every thread is in flight. "
            "Started again it goes on with the session of last time. "
            "Exit code 1: a request failed, or an expiry cost another number of exchanges than 1."
        ),
    )
    parser.add_argument("--threads", type=_count, default=64, help="default: %(default)s")
    parser.add_argument("--expiries", type=_count, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=1.0,
        help="how long each access token is in use before the server ends it (default: 1)",
    )
    parser.add_argument(
        "--state",
        metavar="PATH",
        default=None,
        help="file for the encrypted tokens (default: in the user's state directory); "
        "the server keeps its own beside it",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return its exit code."""
    screen = Screen(None if arguments.json else sys.stdout)
    try:
        path = os.path.abspath(os.path.expanduser(arguments.state or _default_state()))
        with _alone(path):
            report = Demo(arguments, path, screen).run()
    except KeyboardInterrupt:
        print("interrupted; started again it goes on from here", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError) as error:  # all of requests' and ours among them
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(report.as_json())
    else:
        screen.say("\n" + report.as_table())
    return 0 if report.ok else 1


class Demo:
    """One run: a server, a manager, a crowd, and one expiry after the other."""

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
        """Run it and return what came of it."""
        began = time.monotonic()
        with self.server as server:
            self._screen.say(
                f"A server on {server.url} rotates refresh tokens, and revokes the session when "
                "one is used twice."
            )
            manager = self._manager()
            crowd = Crowd(self._threads, manager, server.url, server.resource)
            session = self._begin(manager, crowd)
            try:
                crowd.start()
                self._screen.say(f"{self._threads} threads are at work: a session each, 1 manager.")
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
        """Make the manager. Refresh ahead is off: the demo is about tokens that are rejected."""
        grant = RefreshTokenGrant(self.server.token_endpoint, client_id=_CLIENT_ID, proxies={})
        return TokenManager(grant, store=EncryptedFileStore(self._path), refresh_ahead=0)

    def _begin(self, manager: TokenManager, crowd: Crowd) -> str:
        """Go on with the stored session, or sign in; make one request; say which it was."""
        server, screen = self.server, self._screen
        url = server.resource + "/first"
        if not manager.signed_in:
            manager.sign_in(server.sign_in_token())
            how = "signed in"
            screen.say(f"Signed in. The tokens are kept, encrypted, in {self._path}")
        else:
            how = "went on"
        with crowd.session() as session:
            try:
                session.get(url).raise_for_status()
            except SessionExpired:
                # The server's file is gone, or older than ours.
                manager.sign_in(server.sign_in_token())
                session.get(url).raise_for_status()
                how = "signed in again"
                screen.say("Signed in again: the server does not know the stored session any more.")
        if how == "went on":
            screen.say(f"Went on without signing in, with the tokens in {self._path}")
        return how

    def _expire(self, number: int, manager: TokenManager, crowd: Crowd) -> bool:
        """Let everybody work, end their token, follow what happens; ``False`` if it got stuck."""
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
                screen.follow(partial(_line, phase), phase.is_over, _PATIENCE)
                for phase in expiry.phases()
            )
        finally:
            expiry.give_up()


def _line(phase: Phase) -> str:
    return f"  {phase.name:<10}{phase.count():>5}  {phase.meaning}"


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep a second demo off the same state; its server would not know what ours rotates."""
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
    from platformdirs import user_state_dir

    return os.path.join(
        user_state_dir("requests-silent-refresh", appauthor=False), "demo", "tokens"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= _LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_LONGEST}")
