"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .. import profiles

F = TypeVar("F", bound=Callable[..., Any])


def _complete_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(name) for name in profiles.listed() if name.startswith(incomplete)]


name_argument = click.argument("name", shell_complete=_complete_names)
names_argument = click.argument(
    "names", metavar="[NAME]...", nargs=-1, shell_complete=_complete_names
)


class Seconds(click.FloatRange):
    """A duration; ``nan`` and ``inf`` are none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds", param, ctx)
        return seconds


def setting_options(command: F) -> F:
    """Add the options that set a profile's settings."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def key_option(command: F) -> F:
    """Add the option that names keys."""
    return _KEY(command)


def place_options(command: F) -> F:
    """Add the options that say where a session is stored, and with which key."""
    for option in reversed((*_STORE, _KEY)):
        command = option(command)
    return command


_STORE = (
    click.option(
        "--store",
        metavar="WHERE",
        help="file:PATH, a Redis or SQL URL, or environment:NAME of a variable with one.",
    ),
    click.option("--store-name", metavar="NAME", help="Name of the session in Redis or SQL."),
)
_KEY = click.option(
    "--key",
    "keys",
    metavar="WHERE",
    multiple=True,
    help="key-file:PATH, environment:NAME, file:PATH, keyring:SERVICE, or "
    "passphrase-environment:NAME, passphrase-file:PATH; repeatable, the first encrypts. "
    "Default: the profile's own key file.",
)
_SETTINGS = (
    click.option(
        "--provider",
        metavar="NAME",
        help="A known authorization server, instead of its URLs; see 'silent-refresh providers'.",
    ),
    click.option(
        "--at",
        "places",
        metavar="NAME=VALUE",
        multiple=True,
        help="What stands in braces in the provider's URLs: domain=..., tenant=...; repeatable.",
    ),
    click.option(
        "--issuer", metavar="URL", help="The authorization server; its endpoints are discovered."
    ),
    click.option("--token-endpoint", metavar="URL", help="For servers without metadata."),
    click.option("--authorization-endpoint", metavar="URL"),
    click.option("--device-authorization-endpoint", metavar="URL"),
    click.option("--revocation-endpoint", metavar="URL"),
    click.option("--client-id", metavar="ID", help="The client's registered ID."),
    click.option(
        "--client-secret",
        metavar="WHERE",
        help="environment:NAME, file:PATH, keyring:SERVICE/ACCOUNT, or 'ask'; 'none' removes it.",
    ),
    click.option("--client-auth", type=click.Choice(["basic", "post", "none"])),
    click.option(
        "--origin",
        "origins",
        metavar="URL",
        multiple=True,
        help="Server that may receive the token; repeatable.",
    ),
    click.option("--scope", "scopes", multiple=True, help="Scope to request; repeatable."),
    click.option(
        "--json-refresh",
        metavar="URL",
        help="Refresh URL of an API with its own JSON format; see import.",
    ),
    click.option(
        "--grant-option",
        "grant_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="Argument of the grant's class; VALUE may be JSON; repeatable.",
    ),
    click.option(
        "--adapter-option",
        "adapter_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="Argument of the adapter, such as header=X-Auth-Token; as --grant-option.",
    ),
    *_STORE,
    _KEY,
)
