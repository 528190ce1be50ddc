"""``silent-refresh token``, ``refresh`` and ``sign-out``: the commands that use a session."""

from __future__ import annotations

import time

import click

from ..errors import StoreCorrupted, WrongKey
from ..profiles import changes, ending, load
from .app import uninterrupted
from .options import name_argument
from .output import if_interrupted, say
from .times import until

_FINISHED = "a refresh that has begun is finished and saved before the command ends"


@click.command()
@name_argument
@click.option("--header", is_flag=True, help="Print it as a header, for curl -H @-")
def token(name: str, header: bool) -> None:
    """Print the current access token of the profile NAME, refreshed if needed.

    Meant for tools that read it from a pipe, so that it never shows in a process list:

    \b
      silent-refresh token work --header | curl -H @- https://api.example.com/me
    """
    profile = load(name)
    with if_interrupted(_FINISHED):
        secret = profile.manager.token().access_token.reveal()
    if header:
        scheme = profile.adapter_options.get("scheme", "Bearer")
        field = profile.adapter_options.get("header", "Authorization")
        secret = f"{field}: {f'{scheme} ' if scheme else ''}{secret}"
    say(secret)


@click.command()
@name_argument
def refresh(name: str) -> None:
    """Refresh the token of the profile NAME now, even if it is still valid."""
    manager = load(name).manager
    began = time.time()
    with if_interrupted(_FINISHED):
        new = manager.token()
        if (new.issued_at or 0) < began:  # otherwise it was due and has just been refreshed
            new = manager.renew(new)
    say(f"Refreshed {name}: the token expires {until(new.expires_at)}.")


@click.command("sign-out")
@name_argument
@click.option("--forget", is_flag=True, help="Remove the profile's settings as well.")
def sign_out(name: str, forget: bool) -> None:
    """Revoke the tokens of the profile NAME at the server, and wipe them here.

    They are wiped even if the server cannot be reached, which is then reported on
    standard error. Running scripts get SessionExpired from then on. With --forget,
    tokens that cannot be read any more are moved aside, see 'reset'.
    """
    profile = load(name)
    ended = None
    try:
        with if_interrupted(
            f"signed out of {name} on this machine; the server may not have been told"
        ):
            ended = ending.end(profile)
    except (WrongKey, StoreCorrupted) as error:
        if not forget:
            raise
        aside = ending.set_aside(profile)
        say(f"The tokens were moved to {aside}, unrevoked: {error}", err=True)
    if forget:
        with uninterrupted():
            changes.forget(profile)
    signed_in = ended is None or ended.was_signed_in
    outcome = "Signed out of" if signed_in else "Nobody was signed in to"
    say(f"{outcome} {profile.name}" + (", and removed its settings." if forget else "."))
    if ended is not None and ended.unrevoked is not None:
        say(
            "silent-refresh: the server was not told, so the session may still be valid there: "
            f"{ended.unrevoked}",
            err=True,
        )
