"""The demo's arguments; the demo itself is loaded when it is run."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

_LONGEST = 3000  # seconds; the server's tokens live an hour, and none may expire by itself


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers; the parsed ``run(arguments)`` runs it."""
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
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from .command import run

    return run(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= _LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_LONGEST}")
