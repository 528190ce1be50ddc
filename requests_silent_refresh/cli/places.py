"""``silent-refresh settings``, ``move`` and ``reset``: what a profile has, and where."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from ..errors import StoreCorrupted, WrongKey
from ..profiles import changes, ending, load, paths
from .app import uninterrupted
from .options import name_argument, place_options, setting_options
from .output import say
from .settings_from import place_from, profile_from


@click.command()
@name_argument
@setting_options
def settings(name: str, **given: Any) -> None:
    """Print the settings of the profile NAME as JSON, after changing those that are given.

    Settings contain no secrets. A change of server or client needs a sign-in, of the
    store a 'move', and of the key 'rotate-key'.
    """
    profile = load(name)
    if any(given.values()):
        changed = profile_from(name, {"parameters": {}, **given}, None, profile)
        if changed.identity != profile.identity:
            raise click.UsageError("another server or client needs a sign-in: use sign-in")
        if (changed.place, changed.key) != (profile.place, profile.key):
            raise click.UsageError("the session would be left behind: use move, or rotate-key")
        changed.adapter  # noqa: B018 (creates it, so that its arguments are checked)
        profile = dataclasses.replace(changed, signed_in=profile.signed_in)
        profile.save()
    say(*json.dumps(profile.to_settings(), indent=2, ensure_ascii=False).splitlines())


@click.command()
@name_argument
@place_options
def move(name: str, **given: Any) -> None:
    """Move the session of the profile NAME to another store, without using its refresh token.

    Give --store, and --key where the new place needs one. If this is interrupted, run it
    again. Scripts that are running have to be restarted.
    """
    profile = load(name)
    new = place_from(given, profile)
    if new.place == profile.place:
        raise click.UsageError("--store is missing, or names the place where the session is")
    with uninterrupted():
        changes.move(profile, new)
    say(f"The session of {name} is now in {new.place}.")


@click.command()
@name_argument
def reset(name: str) -> None:
    """Move tokens of the profile NAME out of the way that nobody can read any more.

    For a lost key or a damaged file. Nothing is revoked at the server. Sign in again
    afterwards.
    """
    profile = load(name)
    try:
        profile.open_store().load()
    except (WrongKey, StoreCorrupted) as unreadable:
        with uninterrupted():
            aside = ending.set_aside(profile)
        say(f"The tokens were moved to {aside}: {unreadable}")
        say(f"Now run: {profile.sign_in_command}")
    else:
        raise click.UsageError(
            f"the tokens of {name} can be read, so there is nothing to reset: use sign-out. "
            f"Its settings are in {paths.settings_file(name)}"
        )
