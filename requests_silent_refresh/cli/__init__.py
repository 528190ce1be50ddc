"""The command line. Each command is a module; this only tells them apart."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .exits import SETUP

_MISSING_EXTRA = (
    "silent-refresh: all commands but 'demo' need {}: pip install 'requests-silent-refresh[cli]'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names (``None``: the process's own) and return its exit code.

    ``demo`` needs nothing but the package; the others need the extra ``cli``.
    Raises ``SystemExit`` with code 2 for arguments of ``demo`` that cannot be meant.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        return _demo(arguments)
    try:
        import click  # noqa: F401
        import oauthlib  # noqa: F401
        import rich  # noqa: F401
    except ImportError as missing:
        print(_MISSING_EXTRA.format(missing.name), file=sys.stderr)
        return SETUP
    from .app import run

    return run(arguments)


def _demo(arguments: Sequence[str]) -> int:
    import argparse

    from . import demo

    parser = argparse.ArgumentParser(
        prog="silent-refresh", description="Silent token refresh for requests."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_to(commands)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed)
    return code
