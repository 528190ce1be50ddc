"""``silent-refresh sign-in``."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from ..errors import SilentRefreshError
from ..profiles import changes, ending, listed, load
from ..profiles.names import normal
from ..profiles.profile import Profile, network_options
from ..profiles.references import Kept, resolve
from ..sign_in.client import OWN_PARAMETERS, Client, as_client
from ..token import Token
from .app import uninterrupted
from .options import Seconds, name_argument, setting_options
from .output import countdown, if_interrupted, say
from .providers import named
from .settings_from import parsed_pairs, profile_from
from .standard_input import StandardInput
from .stdin import read_secret
from .times import until

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
    type=Seconds(min=1),
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
    own = OWN_PARAMETERS & given["parameters"].keys()
    if own:
        raise click.UsageError(f"--parameter {min(own)}: the sign-in sets it itself")
    profile, typed = checked(profile, given["client_secret"])
    client = _client(profile, typed, timeout)
    replaced: list[changes.Earlier | None] = []
    token = _METHODS[method](
        profile,
        client,
        lambda token: replaced.append(keep(profile, token, typed, revoke=True)),
        timeout,
        given,
    )
    conclude(profile, token, replaced[0])


def known(name: str) -> Profile | None:
    """Return the stored profile; ``None`` if there is none yet."""
    return load(name) if normal(name) in listed() else None


def checked(profile: Profile, client_secret: str | None) -> tuple[Profile, str | None]:
    """Check the settings, and return the profile and the client secret if one was typed.

    A typed secret of another client is kept under a new name, so that settings and
    secret take effect together, by one rename. For the same client the name stays, so
    that running scripts find the new secret. Raises ``ProfileError`` for
    invalid settings, before the person is asked to sign in.
    """
    typed = None
    if client_secret == "ask":  # noqa: S105 (not a secret)
        typed = read_secret("Client secret")
        kept = profile.grant.get("client_secret")
        before = changes.load_or_none(profile.name)
        is_same = before is not None and (before.identity, before.key) == (
            profile.identity,
            profile.key,
        )
        if not (is_same and isinstance(kept, dict) and "kept" in kept):
            kept = {"kept": f"client_secret-{secrets.token_hex(4)}"}
        profile = dataclasses.replace(profile, grant={**profile.grant, "client_secret": kept})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        changes.check(profile)
    for warning in caught:
        say(f"Warning: {warning.message}", err=True)
    return profile, typed


@contextlib.contextmanager
def keeping(profile: Profile, typed: str | None) -> Iterator[None]:
    """Keep a typed client secret, if there is one; if the body fails, the one before is kept."""
    if typed is None:
        yield
        return
    what, before = profile.grant["client_secret"]["kept"], None
    kept = Kept(profile.name, what, profile.make_key())
    with contextlib.suppress(LookupError):
        before = kept()
    kept.keep(typed)
    try:
        yield
    except BaseException:
        kept.forget() if before is None else kept.keep(before)
        raise


def keep(
    profile: Profile, token: Token, typed: str | None, *, revoke: bool
) -> changes.Earlier | None:
    """Store the new session and settings, and return the session that they replaced.

    If that fails and ``revoke`` is true, the token is revoked: nobody else has it.
    """
    with uninterrupted(), keeping(profile, typed):
        try:
            return changes.sign_in(profile, token)
        except BaseException:
            if revoke and (problem := ending.revoke(profile, token)):
                say(f"The new session could not be revoked at the server: {problem}", err=True)
            raise


def conclude(
    profile: Profile, token: Token, earlier: changes.Earlier | None, given: Token | None = None
) -> None:
    """End the earlier session and report the new one.

    ``given`` is the token that ``token`` was exchanged for, if any.
    """
    told = None
    with if_interrupted(
        f"signed in to {profile.name}; its earlier session may still be valid at the server"
    ):
        if earlier is not None and not _is_continued(earlier.token, token, given):
            told = _end_session(earlier)
        if earlier is not None:
            _forget_kept(earlier.profile, profile)
    subject = changes.subject_of(token)
    say(f"Signed in to {profile.name}" + (f" as {subject}" if subject else "") + ".")
    if token.refresh_token is None and getattr(profile.make_grant(), "needs_sign_in", True):
        say(f"The server gave no refresh token: the session ends {until(token.expires_at)}.")
    say(
        "In a script: from requests_silent_refresh import profiles; "
        f"profiles.load({profile.name!r}).mount_on(session)"
    )
    if told:
        say(told)


def _is_continued(earlier: Token | None, *present: Token | None) -> bool:
    """Return whether the earlier refresh token belongs to the present session as well.

    Also for a session without one: revoking an access token may end more than that.
    """
    if earlier is None:
        return False
    return earlier.refresh_token is None or any(
        one is not None
        and one.refresh_token is not None
        and one.refresh_token.reveal() == earlier.refresh_token.reveal()
        for one in present
    )


def _end_session(earlier: changes.Earlier) -> str | None:
    """Revoke, and if it is stored elsewhere wipe, the session that was replaced."""
    try:
        if earlier.token is None:
            was_signed_in, problem = ending.end(earlier.profile)
        else:
            was_signed_in, problem = True, ending.revoke(earlier.profile, earlier.token)
    except SilentRefreshError as error:
        say(f"The profile's earlier session could not be ended: {error}", err=True)
        return None
    if problem is None:
        return "The profile's earlier session was ended." if was_signed_in else None
    say(f"The profile's earlier session could not be revoked at the server: {problem}", err=True)
    return None


def _forget_kept(before: Profile, profile: Profile) -> None:
    """Wipe the earlier typed secret if the new settings no longer refer to it."""
    old = before.grant.get("client_secret")
    if isinstance(old, dict) and "kept" in old and old != profile.grant.get("client_secret"):
        Kept(profile.name, old["kept"], before.make_key()).forget()


def _client(profile: Profile, typed: str | None, timeout: float) -> Client:
    grant, sign_in = profile.grant, profile.sign_in
    secret = resolve(grant.get("client_secret"), profile.name, profile.make_key())
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
) -> Token:
    from ..sign_in.browser import DEFAULT_REDIRECT, with_browser

    endpoint = _endpoint(profile, "authorization_endpoint", "--device")
    redirect_uri = profile.sign_in.get("redirect_uri", DEFAULT_REDIRECT)
    pasting = given["paste"] or redirect_uri.startswith("https:")

    def show(url: str, opening: bool) -> None:
        lead = "Opening a browser. If none opens, visit" if opening else "To sign in, visit"
        say(f"{lead}:", "", f"  {url}", "")
        if pasting:
            say(
                "In the end the browser shows an error, or an empty page. Paste the address that "
                "it ended at here:"
            )

    with countdown() as waiting:
        return with_browser(
            client,
            endpoint,
            show,
            keep,
            issuer=profile.sign_in.get("issuer_name"),
            iss_required=bool(profile.sign_in.get("iss_in_callback")),
            redirect_uri=redirect_uri,
            bind=given["bind"],
            read_line=StandardInput() if pasting else None,
            say=say,
            open_browser=not given["no_browser"],
            timeout=timeout,
            waiting=(lambda left: None) if pasting else waiting,
        )


def _with_device(
    profile: Profile, client: Client, keep: Keep, timeout: float, given: Mapping[str, Any]
) -> Token:
    from ..sign_in.device import DeviceCode, with_device

    endpoint = _endpoint(profile, "device_authorization_endpoint", "--browser")

    def show(code: DeviceCode) -> None:
        say(f"On any device visit {code.verification_uri} and enter the code:", "")
        say(f"  {code.user_code}", "")
        if code.verification_uri_complete:
            say(f"or visit {code.verification_uri_complete}", "")

    with countdown() as waiting:
        token = with_device(client, endpoint, show, waiting, timeout=timeout)
    keep(token)
    return token


def _as_client(
    profile: Profile, client: Client, keep: Keep, timeout: float, given: Mapping[str, Any]
) -> Token:
    """Check once that the client's credentials work; the grant then refreshes on its own."""
    token = as_client(client, profile.grant.get("grant_type"))
    keep(token)
    return token


_METHODS = {"browser": _with_browser, "device": _with_device, "client-credentials": _as_client}
