"""What the commands print. Everything goes through here, so no other text reaches a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, TextIO

import click

from ..errors import printable
from . import exits

_CLEAR_LINE = "\r\x1b[2K"


class Interrupted(click.ClickException):
    """Ctrl-C, with what it means for the command that was interrupted."""

    exit_code = exits.INTERRUPTED


def say(*lines: str, err: bool = False, bold: bool = False) -> None:
    """Print ``lines``. Control characters in them are replaced by spaces.

    Raises ``OSError`` if standard output cannot be written. Standard error is best effort.
    """
    text = "\n".join(map(printable, lines))
    if bold and is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"):
        text = click.style(text, bold=True)
    _write(text + "\n", err)


def is_terminal(stream: IO[Any] | None) -> bool:
    """Return whether ``stream`` is a terminal; ``None`` is a closed one."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed later
        return False


@contextlib.contextmanager
def countdown() -> Iterator[Callable[[float], None]]:
    """Yield a function that shows the seconds left on one line, which is removed at the end."""
    shown = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"

    def rewrite(line: str) -> None:
        if shown:
            _write(_CLEAR_LINE + line, err=True)

    def show(seconds: float) -> None:
        minutes, rest = divmod(int(seconds), 60)
        rewrite(f"Waiting: {minutes}:{rest:02d} left, Ctrl-C gives up")  # fits 40 columns

    try:
        yield show
    finally:
        rewrite("")


@contextlib.contextmanager
def if_interrupted(message: str) -> Iterator[None]:
    """Replace "nothing was changed" by ``message`` if Ctrl-C ends the body."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        raise Interrupted(f"interrupted: {message}") from None


def _write(text: str, err: bool) -> None:
    stream: Any = sys.stderr if err else sys.stdout
    reason: object = "it is closed"
    if stream is not None:
        try:
            _encode(text, stream)
        except (OSError, ValueError) as error:  # ValueError: closed by this process
            reason = getattr(error, "strerror", None) or error
            if stream in (sys.__stdout__, sys.__stderr__):
                _discard(stream)
        else:
            return
    if not err:
        raise OSError(f"cannot write to standard output: {reason}")


def _encode(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    stream.flush()


def _discard(stream: TextIO) -> None:
    """Drop what a stream still holds, so that Python does not report it at the exit as well."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
