"""``silent-refresh sign-in``."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import click

from ..errors import SilentRefreshError
from ..profiles import ProfileError, changes, load
from ..profiles.profile import NETWORK, Profile
from ..profiles.references import Kept
from ..sign_in.client import Client
from ..token import Token
from .app import is_terminal, uninterrupted
from .options import (
    name_argument,
    parsed_pairs,
    profile_from,
    read_secret,
    setting_options,
)

Keep = Callable[[Token], object]


@click.command("sign-in")
@name_argument
@setting_options
@click.option(
    "--device",
    "method",
    flag_value="device",
    help="For a machine without a browser: a code to enter elsewhere.",
)
@click.option(
    "--browser",
    "method",
    flag_value="browser",
    help="With a browser on this machine (the default).",
)
@click.option(
    "--client-credentials",
    "method",
    flag_value="client-credentials",
    help="As the client itself: nobody signs in.",
)
@click.option(
    "--redirect-uri",
    metavar="URL",
    help="Where the browser comes back, on this machine; http://127.0.0.1/callback on a free port.",
)
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="Sent along when consent is asked for: audience=..., prompt=...; repeatable.",
)
@click.option("--no-browser", is_flag=True, help="Open no browser, only print the URL.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds to wait for somebody to sign in.",
)
def sign_in(name: str, method: str | None, no_browser: bool, timeout: float, **given: Any) -> None:
    """Sign in to the profile NAME.

    The first time say where and as what, for example:

    \b
      silent-refresh sign-in work --issuer https://auth.example.com \\
          --client-id my-script --origin https://api.example.com --scope read

    Later 'silent-refresh sign-in work' is enough; what is given replaces what was.
    Nothing is stored or changed before somebody has signed in.
    """
    given["parameters"] = dict(parsed_pairs("--parameter", given["parameters"]))
    previous = known(name)
    method = method or (previous.sign_in.get("method") if previous else None) or "browser"
    if method == "import":
        method = "browser"
    profile = profile_from(name, given, method, previous)
    if profile.grant["kind"] == "json":
        raise click.UsageError("there is no sign-in for a JSON API: use silent-refresh import")
    typed = read_secret("Client secret") if given["client_secret"] == "ask" else None  # noqa: S105
    if typed is not None:
        profile = with_kept_secret(profile)
    profile.make_grant()  # what cannot be meant shows before anybody is asked
    profile.open_store()
    client = _client(profile, typed, timeout)
    _METHODS[method](
        profile, client, lambda token: conclude(profile, token, typed), no_browser, timeout
    )


def known(name: str) -> Profile | None:
    """Return the profile as it is; ``None`` where there is none yet."""
    from ..profiles import listed
    from ..profiles.names import normal

    return load(name) if normal(name) in listed() else None


def with_kept_secret(profile: Profile) -> Profile:
    """Return the profile with a reference to a client secret that is about to be kept.

    A new name each time: settings and secret take effect together, by a rename.
    """
    kept = {"kept": f"client_secret-{secrets.token_hex(4)}"}
    return dataclasses.replace(profile, grant={**profile.grant, "client_secret": kept})


def conclude(profile: Profile, token: Token, typed: str | None) -> None:
    """Store what the sign-in brought, and say so."""
    before = known_or_none(profile.name)
    with uninterrupted():
        if typed is not None:
            Kept(profile.name, profile.grant["client_secret"]["kept"]).keep(typed)
        left = changes.sign_in(profile, token)
        _forget_kept(before, profile)
    subject = changes.subject_of(token)
    click.echo(f"Signed in to {profile.name}" + (f" as {subject}" if subject else "") + ".")
    click.echo(
        "In a script: from requests_silent_refresh import profiles; "
        f"profiles.load({profile.name!r}).mount_on(session)"
    )
    if left is not None:
        _end(left)


def known_or_none(name: str) -> Profile | None:
    """Return the profile as it is; ``None`` also where it cannot be used."""
    try:
        return known(name)
    except ProfileError:
        return None


def _forget_kept(before: Profile | None, profile: Profile) -> None:
    """Wipe the typed secret that nobody refers to any more."""
    old = before.grant.get("client_secret") if before else None
    if isinstance(old, dict) and "kept" in old and old != profile.grant.get("client_secret"):
        Kept(profile.name, old["kept"]).forget()


def _end(left: Profile) -> None:
    """End the session of the server or client that the profile had before."""
    try:
        left.manager.sign_out()
        click.echo("The session that the profile had with another server or client was ended.")
    except SilentRefreshError as error:
        click.echo(f"The profile's earlier session could not be ended: {error}", err=True)


def _client(profile: Profile, typed: str | None, timeout: float) -> Client:
    from ..profiles.references import resolve

    grant, sign_in = profile.grant, profile.sign_in
    secret = resolve(grant.get("client_secret"), profile.name)
    return Client(
        grant["token_endpoint"],
        grant["client_id"],
        (lambda: typed) if typed is not None else secret,
        grant.get("client_auth"),
        tuple(sign_in.get("scope", ())),
        sign_in.get("parameters", {}),
        {name: grant[name] for name in NETWORK if name in grant},
        min(30.0, timeout),
    )


def _with_browser(
    profile: Profile, client: Client, keep: Keep, no_browser: bool, timeout: float
) -> None:
    from ..sign_in.browser import DEFAULT_REDIRECT, with_browser

    endpoint = profile.sign_in.get("authorization_endpoint")
    if not endpoint:
        raise click.UsageError(
            "there is no authorization endpoint: give --authorization-endpoint, or use --device"
        )

    def show(url: str, opening: bool) -> None:
        what = "A browser opens. If none does, visit" if opening else "To sign in, visit"
        click.echo(f"{what}:\n\n  {url}\n")

    with_browser(
        client,
        endpoint,
        show,
        keep,
        issuer=profile.sign_in.get("issuer"),
        iss_required=bool(profile.sign_in.get("iss_in_callback")),
        redirect_uri=profile.sign_in.get("redirect_uri", DEFAULT_REDIRECT),
        open_browser=not no_browser,
        timeout=timeout,
    )


def _with_device(
    profile: Profile, client: Client, keep: Keep, no_browser: bool, timeout: float
) -> None:
    from ..sign_in.device import DeviceCode, with_device
    from .countdown import Countdown

    endpoint = profile.sign_in.get("device_authorization_endpoint")
    if not endpoint:
        raise click.UsageError(
            "there is no device authorization endpoint: give --device-authorization-endpoint, or "
            "sign in with a browser"
        )

    def show(code: DeviceCode) -> None:
        click.echo(f"On any device visit {code.verification_uri} and enter the code:\n")
        click.echo(f"  {code.user_code}\n")
        if code.verification_uri_complete:
            click.echo(f"or visit {code.verification_uri_complete}\n")

    with Countdown(is_terminal()) as countdown:
        token = with_device(client, endpoint, show, countdown.show, timeout=timeout)
    keep(token)


def _as_client(
    profile: Profile, client: Client, keep: Keep, no_browser: bool, timeout: float
) -> None:
    """Prove once that the client's credentials work; from then on the grant needs nobody."""
    from ..sign_in.machine import as_client

    keep(as_client(client))


_METHODS = {"browser": _with_browser, "device": _with_device, "client-credentials": _as_client}
