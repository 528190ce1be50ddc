"""``silent-refresh sign-in``."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..errors import SilentRefreshError
from ..profiles import changes, listed, load
from ..profiles.names import normal
from ..profiles.profile import Profile, network_options
from ..profiles.references import Kept, resolve
from ..sign_in.client import Client, as_client
from ..token import Token
from .app import is_terminal, uninterrupted
from .options import name_argument, parsed_pairs, profile_from, read_secret, setting_options
from .providers import named
from .standard_input import StandardInput

Keep = Callable[[Token], object]


@click.command("sign-in")
@name_argument
@setting_options
@click.option(
    "--device",
    "method",
    flag_value="device",
    help="Show a code to enter on another device; for machines without a browser.",
)
@click.option(
    "--browser",
    "method",
    flag_value="browser",
    help="Use a browser on this machine (the default).",
)
@click.option(
    "--client-credentials",
    "method",
    flag_value="client-credentials",
    help="Sign in as the client itself, without a person.",
)
@click.option(
    "--redirect-uri",
    metavar="URL",
    help="Where the browser returns to, on this machine. "
    "Default: http://127.0.0.1/callback on a free port.",
)
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="Extra parameter of the authorization request: audience=..., prompt=...; repeatable.",
)
@click.option("--no-browser", is_flag=True, help="Print the URL without opening a browser.")
@click.option(
    "--paste",
    is_flag=True,
    help="Paste the address that the browser ended at: for a browser on another machine. "
    "Always so for an https redirect URI.",
)
@click.option(
    "--bind",
    metavar="ADDRESS",
    help="Listen there for the browser instead of on loopback: in a container, 0.0.0.0.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds to wait for the sign-in.",
)
def sign_in(name: str, method: str | None, timeout: float, **given: Any) -> None:
    """Sign in to the profile NAME.

    The first time, name the server and the client, for example:

    \b
      silent-refresh sign-in work --issuer https://auth.example.com \\
          --client-id my-script --origin https://api.example.com --scope read

    Later 'silent-refresh sign-in work' is enough; options replace earlier settings.
    Nothing is stored or changed before the sign-in succeeds.
    """
    given["parameters"] = dict(parsed_pairs("--parameter", given["parameters"]))
    previous = known(name)
    if given["provider"] and named(given["provider"]).grant_type != "refresh_token":
        method = "client-credentials"
    method = method or (previous.sign_in.get("method") if previous else None) or "browser"
    if method == "import":
        method = "browser"
    profile = profile_from(name, given, method, previous)
    if profile.grant["kind"] == "json":
        raise click.UsageError("there is no sign-in for a JSON API: use silent-refresh import")
    profile, typed = checked(profile, given["client_secret"])
    client = _client(profile, typed, timeout)
    _METHODS[method](profile, client, lambda token: conclude(profile, token, typed), timeout, given)


def known(name: str) -> Profile | None:
    """Return the stored profile; ``None`` if there is none yet."""
    return load(name) if normal(name) in listed() else None


def checked(profile: Profile, client_secret: str | None) -> tuple[Profile, str | None]:
    """Check the settings, and return the profile and the client secret if one was typed.

    A typed secret is kept under a new name each time, so that settings and
    secret take effect together, by one rename. Raises ``ProfileError`` for
    invalid settings, before the person is asked to sign in.
    """
    typed = None
    if client_secret == "ask":  # noqa: S105 (not a secret)
        typed = read_secret("Client secret")
        kept = {"kept": f"client_secret-{secrets.token_hex(4)}"}
        profile = dataclasses.replace(profile, grant={**profile.grant, "client_secret": kept})
    profile.make_grant()
    profile.open_store()
    return profile, typed


def conclude(profile: Profile, token: Token, typed: str | None) -> None:
    """Store the new session and settings, and report them."""
    before = changes.load_or_none(profile.name)
    with uninterrupted():
        if typed is not None:
            Kept(profile.name, profile.grant["client_secret"]["kept"]).keep(typed)
        earlier = changes.sign_in(profile, token)
        _forget_kept(before, profile)
    subject = changes.subject_of(token)
    click.echo(f"Signed in to {profile.name}" + (f" as {subject}" if subject else "") + ".")
    click.echo(
        "In a script: from requests_silent_refresh import profiles; "
        f"profiles.load({profile.name!r}).mount_on(session)"
    )
    if earlier is not None:
        _end_session(earlier)


def _forget_kept(before: Profile | None, profile: Profile) -> None:
    """Wipe the earlier typed secret if the new settings no longer refer to it."""
    old = before.grant.get("client_secret") if before else None
    if isinstance(old, dict) and "kept" in old and old != profile.grant.get("client_secret"):
        Kept(profile.name, old["kept"]).forget()


def _end_session(earlier: Profile) -> None:
    """End the session with the server or client that the profile used before."""
    try:
        earlier.manager.sign_out()
        click.echo("The profile's earlier session with another server or client was ended.")
    except SilentRefreshError as error:
        click.echo(f"The profile's earlier session could not be ended: {error}", err=True)


def _client(profile: Profile, typed: str | None, timeout: float) -> Client:
    grant, sign_in = profile.grant, profile.sign_in
    secret = resolve(grant.get("client_secret"), profile.name)
    return Client(
        grant["token_endpoint"],
        grant["client_id"],
        (lambda: typed) if typed is not None else secret,
        grant.get("client_auth"),
        tuple(sign_in.get("scope", ())),
        sign_in.get("parameters", {}),
        network_options(grant),
        min(30.0, timeout),
        resolve(grant.get("extra") or {}, profile.name),
    )


def _endpoint(profile: Profile, name: str, alternative: str) -> str:
    """Return an endpoint of the profile. Raises ``click.UsageError`` if it has none."""
    endpoint: str | None = profile.sign_in.get(name)
    if not endpoint:
        option = "--" + name.replace("_", "-")
        raise click.UsageError(
            f"there is no {name.replace('_', ' ')}: give {option}, or use {alternative}"
        )
    return endpoint


def _with_browser(
    profile: Profile, client: Client, keep: Keep, timeout: float, given: Mapping[str, Any]
) -> None:
    from ..sign_in.browser import DEFAULT_REDIRECT, with_browser

    endpoint = _endpoint(profile, "authorization_endpoint", "--device")
    redirect_uri = profile.sign_in.get("redirect_uri", DEFAULT_REDIRECT)
    pasting = given["paste"] or redirect_uri.startswith("https:")

    def show(url: str, opening: bool) -> None:
        lead = "Opening a browser. If none opens, visit" if opening else "To sign in, visit"
        click.echo(f"{lead}:\n\n  {url}\n")
        if pasting:
            click.echo(
                "In the end the browser shows an error, or an empty page. Paste the address that "
                "it ended at here:"
            )

    with_browser(
        client,
        endpoint,
        show,
        keep,
        issuer=profile.sign_in.get("issuer_name"),
        iss_required=bool(profile.sign_in.get("iss_in_callback")),
        redirect_uri=redirect_uri,
        bind=given["bind"],
        read_line=StandardInput() if pasting else None,
        say=click.echo,
        open_browser=not given["no_browser"],
        timeout=timeout,
    )


def _with_device(
    profile: Profile, client: Client, keep: Keep, timeout: float, given: Mapping[str, Any]
) -> None:
    from ..sign_in.device import DeviceCode, with_device

    endpoint = _endpoint(profile, "device_authorization_endpoint", "--browser")

    def show(code: DeviceCode) -> None:
        click.echo(f"On any device visit {code.verification_uri} and enter the code:\n")
        click.echo(f"  {code.user_code}\n")
        if code.verification_uri_complete:
            click.echo(f"or visit {code.verification_uri_complete}\n")

    def count_down(seconds: float) -> None:
        minutes, rest = divmod(int(seconds), 60)
        rewrite(f"Waiting for you to enter the code: {minutes}:{rest:02d} left")

    def rewrite(line: str) -> None:
        if is_terminal():
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)

    try:
        token = with_device(client, endpoint, show, count_down, timeout=timeout)
    finally:
        rewrite("")
    keep(token)


def _as_client(
    profile: Profile, client: Client, keep: Keep, timeout: float, given: Mapping[str, Any]
) -> None:
    """Check once that the client's credentials work; the grant then refreshes on its own."""
    keep(as_client(client, profile.grant.get("grant_type")))


_METHODS = {"browser": _with_browser, "device": _with_device, "client-credentials": _as_client}
