"""``silent-refresh import``: read tokens from standard input."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import click

from ..errors import SessionExpired, SilentRefreshError
from ..grants.protocol import followed_by
from ..profiles import Profile
from ..sign_in.client import SignInFailed
from ..sign_in.from_elsewhere import read_given
from ..token import Token
from .app import uninterrupted
from .options import name_argument, setting_options
from .output import is_terminal, say
from .settings_from import profile_from
from .sign_in import checked, conclude, keep, keeping, known
from .stdin import read_secret, read_stdin
from .times import until


@click.command("import")
@name_argument
@setting_options
def import_(name: str, **given: Any) -> None:
    """Read tokens from standard input into the profile NAME, creating it if needed.

    Accepts a token endpoint's answer in JSON, a token dictionary of
    requests-oauthlib or Authlib, or a refresh token alone. If the access token has
    expired, or the profile is signed in already, the refresh token is exchanged
    first; nothing changes if that fails. For an API with its own JSON refresh:

    \b
      silent-refresh import shop --json-refresh https://shop.example.com/auth/refresh \\
          --origin https://shop.example.com < tokens.json
    """
    if given["client_secret"] == "ask" and not is_terminal(sys.stdin):  # noqa: S105 (no secret)
        raise click.UsageError(
            "standard input is for the tokens: give --client-secret environment:NAME or file:PATH"
        )
    previous = known(name)
    profile = profile_from(name, given, None, previous)
    if "method" not in profile.sign_in:
        profile = dataclasses.replace(profile, sign_in={**profile.sign_in, "method": "import"})
    profile, typed = checked(profile, given["client_secret"])
    tokens = read_given(_read(), profile.make_grant().read_token)
    is_tried = tokens.refresh_token is not None and (
        _has_expired(tokens) or (previous is not None and _is_signed_in(previous))
    )
    with uninterrupted(), keeping(profile, typed):  # an exchange spends what was given
        token = _exchanged(profile, tokens) if is_tried else tokens
        earlier = keep(profile, token, None, revoke=is_tried)
    conclude(profile, token, earlier, tokens)
    if is_tried:
        say(f"Refreshed: the token expires {until(token.expires_at)}.")


def _read() -> str:
    return (read_secret if is_terminal(sys.stdin) else read_stdin)("Refresh token")


def _exchanged(profile: Profile, given: Token) -> Token:
    try:
        return followed_by(given, profile.make_grant()(given))
    except SessionExpired as refused:
        raise SignInFailed(
            f"the refresh token that was given is not accepted: {refused}. Nothing was changed"
        ) from None


def _has_expired(token: Token) -> bool:
    return token.expires_at is not None and token.expires_at <= time.time()


def _is_signed_in(profile: Profile) -> bool:
    try:
        state = profile.open_store().load()
    except SilentRefreshError:
        return False
    return state is not None and state.token is not None
