"""What the commands read: secrets that are typed, and tokens from a pipe."""

from __future__ import annotations

import json
import sys

import click

from ..sign_in.from_elsewhere import SIZE_LIMIT
from .output import is_terminal


def read_secret(what: str) -> str:
    """Prompt for a secret without echo; if standard input is not a terminal, read its first line.

    Raises ``click.UsageError`` if nothing was given.
    """
    if is_terminal(sys.stdin):
        secret: str = click.prompt(what, hide_input=True, err=True)
    else:
        secret = read_stdin(what, first_line=True)
    if not secret.strip():
        raise click.UsageError(f"{what}: nothing was given")
    return secret.strip()


def read_stdin(what: str, *, first_line: bool = False) -> str:
    """Return what standard input holds, in whatever Unicode encoding it is.

    Raises ``click.UsageError`` if it is closed, and ``ValueError`` if it is too large or no text.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise click.UsageError(f"{what}: standard input is closed")
    stream = sys.stdin.buffer
    content = (stream.readline if first_line else stream.read)(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise ValueError(
            f"standard input is larger than any tokens ({SIZE_LIMIT} bytes at most): "
            "pipe in only the tokens"
        )
    try:
        return content.decode(json.detect_encoding(content)).lstrip("\ufeff")
    except UnicodeDecodeError:
        pass  # its message quotes the input
    raise ValueError("standard input is not text: pipe in only the tokens")
