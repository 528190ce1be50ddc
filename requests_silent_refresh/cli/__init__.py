"""The command line. Each command has a module; this one only starts it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .exits import SETUP

_MISSING_EXTRA = (
    "silent-refresh: every command except 'demo' needs {}: "
    "pip install 'requests-silent-refresh[cli]'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``None`` means ``sys.argv[1:]``) and return its exit code.

    ``demo`` needs only the package; the other commands need the extra ``cli``.
    Raises ``SystemExit`` with code 2 if the arguments of ``demo`` are invalid.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        from . import demo

        return demo.main(arguments[1:])
    try:
        import click  # noqa: F401
        import oauthlib  # noqa: F401
    except ImportError as missing:
        if sys.stderr is not None:
            print(_MISSING_EXTRA.format(missing.name), file=sys.stderr)
        return SETUP
    from .app import run

    return run(arguments)
