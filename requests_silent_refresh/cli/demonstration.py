"""``silent-refresh demo`` as a click command. The demo itself uses neither click nor an extra."""

from __future__ import annotations

import click

from . import main


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Watch threads work through expiring tokens, against a server that the demo starts."""
    return main(["demo", *arguments])
