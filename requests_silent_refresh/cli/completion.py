"""``silent-refresh completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .app import app
from .output import say


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
      eval "$(silent-refresh completion bash)"     # in ~/.bashrc
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 (for the type checker: click supports all three)
    say(*kind(app, {}, "silent-refresh", "_SILENT_REFRESH_COMPLETE").source().splitlines())
