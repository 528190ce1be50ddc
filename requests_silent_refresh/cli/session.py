"""``silent-refresh token``, ``refresh`` and ``sign-out``: the commands that use a session."""

from __future__ import annotations

import time

import click

from ..profiles import changes, load
from .app import uninterrupted
from .options import name_argument
from .times import until


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
    secret = profile.manager.token().access_token.reveal()
    if header:
        scheme = profile.adapter_options.get("scheme", "Bearer")
        field = profile.adapter_options.get("header", "Authorization")
        secret = f"{field}: {f'{scheme} ' if scheme else ''}{secret}"
    click.echo(secret)


@click.command()
@name_argument
def refresh(name: str) -> None:
    """Refresh the token of the profile NAME now, even if it is still valid."""
    manager = load(name).manager
    began = time.time()
    new = manager.token()
    if (new.issued_at or 0) < began:  # otherwise it was due and has just been refreshed
        new = manager.renew(new)
    click.echo(f"Refreshed {name}: the token expires {until(new.expires_at)}.")


@click.command("sign-out")
@name_argument
@click.option("--forget", is_flag=True, help="Remove the profile's settings as well.")
def sign_out(name: str, forget: bool) -> None:
    """Revoke the tokens of the profile NAME at the server, and wipe them here.

    They are wiped even if the server cannot be reached. Running scripts get
    SessionExpired from then on.
    """
    profile = load(name)
    was_signed_in = profile.manager.signed_in
    profile.manager.sign_out()
    if forget:
        with uninterrupted():
            changes.forget(profile)
    outcome = "Signed out of" if was_signed_in else "Nobody was signed in to"
    click.echo(f"{outcome} {profile.name}" + (", and removed its settings." if forget else "."))
