"""``silent-refresh import``: read tokens from standard input."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from ..sign_in.from_elsewhere import SIZE_LIMIT, read_given
from .options import name_argument, profile_from, read_secret, setting_options
from .sign_in import checked, conclude, known
from .times import until


@click.command("import")
@name_argument
@setting_options
def import_(name: str, **given: Any) -> None:
    """Read tokens from standard input into the profile NAME, creating it if needed.

    Accepts a token endpoint's answer in JSON, a token dictionary of
    requests-oauthlib or Authlib, or a refresh token alone, which is exchanged at
    once. For an API with its own JSON refresh:

    \b
      silent-refresh import shop --json-refresh https://shop.example.com/auth/refresh \\
          --origin https://shop.example.com < tokens.json
    """
    if given["client_secret"] == "ask" and not sys.stdin.isatty():  # noqa: S105 (not a secret)
        raise click.UsageError(
            "standard input is for the tokens: give --client-secret environment:NAME or file:PATH"
        )
    previous = known(name)
    profile = profile_from(name, given, None, previous)
    if "method" not in profile.sign_in:
        profile = dataclasses.replace(profile, sign_in={**profile.sign_in, "method": "import"})
    profile, typed = checked(profile, given["client_secret"])
    token = read_given(_read(), profile.make_grant().read_token)
    conclude(profile, token, typed)
    if token.expires_at == 0:
        new = profile.manager.token()
        click.echo(f"Refreshed: the token expires {until(new.expires_at)}.")


def _read() -> str:
    if sys.stdin.isatty():
        return read_secret("Refresh token")
    text = sys.stdin.read(SIZE_LIMIT + 1)
    if len(text) > SIZE_LIMIT:
        raise ValueError(
            f"standard input is larger than any tokens ({SIZE_LIMIT} characters at most): "
            "pipe in only the tokens"
        )
    return text
