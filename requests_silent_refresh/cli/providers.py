"""``silent-refresh providers``, and the settings that ``--provider`` stands for."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from .. import providers as known
from ..providers.description import rows
from ..providers.provider import ENDPOINTS, Provider
from .output import say


@click.command("providers")
@click.argument("name", required=False)
def providers(name: str | None) -> None:
    """List the known authorization servers, or show what is known about NAME.

    Sign in to one with 'silent-refresh sign-in work --provider NAME ...'.
    """
    if name is None:
        for each in known.listed():
            say(f"{each:24}{known.named(each).name}")
        return
    provider = named(name)
    say(provider.name, "")
    for label, text in rows(provider):
        say(f"  {label}: {text}")
    say("")
    for quirk in provider.quirks:
        filled = textwrap.fill(
            quirk, 78, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
        say(*filled.splitlines())
    say("", f"From these pages, read on {provider.read_on}:")
    for url in provider.pages:
        say(f"  {url}")


def named(name: str) -> Provider:
    """Return the provider. Raises ``click.UsageError`` with the known ones for another name."""
    try:
        return known.named(name)
    except LookupError as error:
        raise click.UsageError(f"--provider: {error.args[0]}") from None


def filled_in(given: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return the options with what ``--provider`` stands for; given ones take precedence.

    Raises ``click.UsageError`` for an unknown provider, or a place that is missing or unknown.
    """
    filled = dict(given)
    if not given.get("provider"):
        if places:
            raise click.UsageError("--at fills in the addresses of a --provider: give one")
        return filled
    provider = named(given["provider"])
    try:
        endpoints = provider.endpoints(**places)
    except TypeError as error:
        raise click.UsageError(f"{error}: give it as --at NAME=VALUE") from None
    for name in ENDPOINTS:
        filled[name] = given[name] or endpoints.get(name)
    if given["client_secret"] not in (None, "none"):
        filled["client_auth"] = given["client_auth"] or provider.client_auth
    filled["scopes"] = (*provider.scope, *given["scopes"])
    filled["parameters"] = {**provider.parameters, **given.get("parameters", {})}
    if missing := [name for name in provider.extra if name not in filled["parameters"]]:
        raise click.UsageError(f"{provider.name} needs --parameter {missing[0]}=...")
    options: dict[str, Any] = {"refuses_early": True} if provider.refuses_early else {}
    if provider.grant_type not in ("refresh_token", "client_credentials"):
        options["grant_type"] = provider.grant_type
    filled["grant_options"] = (
        *(f"{name}={json.dumps(value)}" for name, value in options.items()),
        *given["grant_options"],
    )
    return filled
