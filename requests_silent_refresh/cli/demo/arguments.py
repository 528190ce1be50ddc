"""The demo's arguments. The demo itself is imported only when it runs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

_LONGEST = 3000  # seconds; below the hour that the server's tokens live, so none expires by itself


def main(argv: Sequence[str]) -> int:
    """Run the demo with the arguments that follow ``demo``, and return its exit code.

    Raises ``SystemExit`` with code 2 if they are invalid.
    """
    parser = argparse.ArgumentParser(
        prog="silent-refresh demo",
        description=(
            "Starts a server on loopback that rotates refresh tokens and revokes the whole "
            "session if one is used twice. Threads send requests to it, and the server repeatedly "
            "revokes their access token while each thread has a request in flight: first once, "
            "with the refresh that is usually written by hand, and then with this library. "
            "The next run continues the stored session. "
            "Exits with 1 if a request failed or an expiry did not cost exactly one exchange."
        ),
    )
    parser.add_argument("--threads", type=_count, default=64, help="default: %(default)s")
    parser.add_argument("--expiries", type=_count, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=1.0,
        help="how long each access token is in use before the server revokes it (default: 1)",
    )
    parser.add_argument(
        "--state",
        metavar="PATH",
        default=None,
        help="file for the encrypted tokens (default: in the user's state directory); "
        "the server's database is stored beside it",
    )
    parser.add_argument(
        "--only-ours", action="store_true", help="leave out the snippet that loses its session"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    arguments = parser.parse_args(argv)
    from .command import run

    return run(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= _LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_LONGEST}")
