"""``silent-refresh demo`` in the list of commands; it is run without click, and without extras."""

from __future__ import annotations

import click

from . import main


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Watch threads work through expiring tokens, against a server of its own."""
    return main(["demo", *arguments])
