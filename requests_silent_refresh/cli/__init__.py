"""The command line. Each command is a module; this only tells them apart."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import demo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names (``None``: the process's own) and return its exit code.

    Raises ``SystemExit`` with code 2 for arguments that cannot be meant.
    """
    parser = argparse.ArgumentParser(
        prog="python -m requests_silent_refresh",
        description="Silent token refresh for requests.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_to(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code
