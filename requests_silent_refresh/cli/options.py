"""Options that several commands share, and what they make of a profile."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .. import profiles
from ..profiles.profile import NETWORK, Profile

F = TypeVar("F", bound=Callable[..., Any])

_SECRETS = ("environment", "file", "keyring")
_CLIENT = ("client_id", "client_secret", "client_auth", "token_endpoint", "revocation_endpoint")


def _complete_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(name) for name in profiles.listed() if name.startswith(incomplete)]


name_argument = click.argument("name", shell_complete=_complete_names)
names_argument = click.argument(
    "names", metavar="[NAME]...", nargs=-1, shell_complete=_complete_names
)


def setting_options(command: F) -> F:
    """Add the options that say what a profile is."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


_SETTINGS = (
    click.option(
        "--issuer", metavar="URL", help="The authorization server; its endpoints are discovered."
    ),
    click.option("--token-endpoint", metavar="URL", help="By hand, where there is no issuer."),
    click.option("--authorization-endpoint", metavar="URL"),
    click.option("--device-authorization-endpoint", metavar="URL"),
    click.option("--revocation-endpoint", metavar="URL"),
    click.option("--client-id", metavar="ID", help="As the client was registered."),
    click.option(
        "--client-secret",
        metavar="WHERE",
        help="environment:NAME, file:PATH, keyring:SERVICE/ACCOUNT, or 'ask'; 'none' for none.",
    ),
    click.option("--client-auth", type=click.Choice(["basic", "post", "none"])),
    click.option(
        "--origin",
        "origins",
        metavar="URL",
        multiple=True,
        help="Who may see the token; repeatable.",
    ),
    click.option("--scope", "scopes", multiple=True, help="What to ask for; repeatable."),
    click.option(
        "--json-refresh",
        metavar="URL",
        help="An API that refreshes in JSON of its own; see import.",
    ),
    click.option(
        "--grant-option",
        "grant_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="An argument of the grant's class; VALUE may be JSON.",
    ),
    click.option(
        "--store",
        metavar="WHERE",
        help="file:PATH, a URL of Redis or SQL, or environment:NAME that holds one.",
    ),
    click.option(
        "--store-name", metavar="NAME", help="What the session is called in Redis or SQL."
    ),
    click.option(
        "--key",
        "keys",
        metavar="WHERE",
        multiple=True,
        help="key-file:PATH, environment:NAME, file:PATH, keyring:SERVICE, or "
        "passphrase-environment:NAME, passphrase-file:PATH. By default a key file of its own.",
    ),
)


def profile_from(
    name: str, given: Mapping[str, Any], method: str | None, previous: Profile | None
) -> Profile:
    """Return the profile that the options say; what they leave out is as it was.

    Asks the issuer for its endpoints. Raises ``click.UsageError`` where
    something is missing, and what discovery raises.
    """
    old_grant = dict(previous.grant) if previous else {}
    old_sign_in = dict(previous.sign_in) if previous else {}
    origins = tuple(given["origins"]) or (previous.origins if previous else ())
    if not origins:
        raise click.UsageError("--origin is missing: say who may see the token")
    sign_in = _sign_in(given, method, old_sign_in)
    grant = _grant(given, old_grant, sign_in)
    return Profile(
        name,
        origins,
        grant,
        _store(given, previous),
        _key(given, previous),
        previous.adapter_options if previous else {},
        {key: value for key, value in sign_in.items() if value not in (None, [], {})},
    )


def _sign_in(given: Mapping[str, Any], method: str | None, old: dict[str, Any]) -> dict[str, Any]:
    sign_in = {**old}
    if given["token_endpoint"] or given["json_refresh"]:
        for name in ("issuer", "authorization_endpoint", "device_authorization_endpoint"):
            sign_in.pop(name, None)
    for name in ("issuer", "authorization_endpoint", "device_authorization_endpoint"):
        if given[name]:
            sign_in[name] = given[name]
    for name in ("redirect_uri", "parameters"):
        if given.get(name):
            sign_in[name] = given[name]
    if given["scopes"]:
        sign_in["scope"] = " ".join(given["scopes"]).split()
    if method is not None:
        sign_in["method"] = method
    return sign_in


def _grant(
    given: Mapping[str, Any], old: dict[str, Any], sign_in: dict[str, Any]
) -> dict[str, Any]:
    options = _grant_options(given["grant_options"])
    if given["json_refresh"] or (old.get("kind") == "json" and not given["client_id"]):
        kept = old if old.get("kind") == "json" else {}
        url = {"url": given["json_refresh"]} if given["json_refresh"] else {}
        return {**kept, "kind": "json", **url, **options}
    machine = sign_in.get("method") == "client-credentials"
    kind = "client_credentials" if machine else "refresh_token"
    if old.get("kind") != kind:  # what stays is who the client is, and how it gets there
        old = {name: value for name, value in old.items() if name in (*_CLIENT, *NETWORK)}
    grant = {**old, "kind": kind, **options}
    if machine and sign_in.get("scope"):
        grant["scope"] = " ".join(sign_in["scope"])
    if machine and sign_in.get("parameters"):
        grant["extra"] = sign_in["parameters"]
    for name in ("client_id", "client_auth"):
        if given[name]:
            grant[name] = given[name]
    if given["client_secret"] == "none":  # noqa: S105 (a word, no secret)
        grant.pop("client_secret", None)
    elif given["client_secret"] not in (None, "ask"):
        grant["client_secret"] = secret_reference("--client-secret", given["client_secret"])
    if not grant.get("client_id"):
        raise click.UsageError("--client-id is missing")
    _find_endpoints(given, grant, sign_in)
    if not grant.get("token_endpoint"):
        raise click.UsageError("--issuer is missing (or --token-endpoint and the like)")
    return grant


def _find_endpoints(
    given: Mapping[str, Any], grant: dict[str, Any], sign_in: dict[str, Any]
) -> None:
    """Put the endpoints where they belong: what is given by hand goes before what is discovered."""
    issuer = sign_in.get("issuer")
    found: dict[str, Any] = {}
    if issuer:
        from ..sign_in import discovery

        network = {name: grant[name] for name in NETWORK if name in grant}
        metadata = discovery.discover(issuer, **network)
        if metadata.code_challenge_methods and "S256" not in metadata.code_challenge_methods:
            raise discovery.DiscoveryFailed(
                f"{issuer} knows PKCE by {', '.join(metadata.code_challenge_methods)} only, not by "
                "S256: it cannot be signed in to safely"
            )
        found = {
            "token_endpoint": metadata.token_endpoint,
            "revocation_endpoint": metadata.revocation_endpoint,
            "authorization_endpoint": metadata.authorization_endpoint,
            "device_authorization_endpoint": metadata.device_authorization_endpoint,
        }
        sign_in["iss_in_callback"] = metadata.iss_in_callback
    for name in ("token_endpoint", "revocation_endpoint"):
        value = given[name] or (found.get(name) if issuer else grant.get(name))
        grant.pop(name, None)
        if value:
            grant[name] = value
    for name in ("authorization_endpoint", "device_authorization_endpoint"):
        value = given[name] or (found.get(name) if issuer else sign_in.get(name))
        sign_in[name] = value


def secret_reference(option: str, text: str) -> dict[str, str]:
    """Read ``environment:NAME`` and the like; the message of an error does not show ``text``."""
    kind, colon, where = text.partition(":")
    if kind not in _SECRETS or not colon or not where:
        raise click.UsageError(
            f"{option} takes no secret, since arguments can be read by everybody on the machine: "
            "give environment:NAME, file:PATH, keyring:SERVICE/ACCOUNT or 'ask'"
        )
    if kind == "keyring":
        service, _, account = where.partition("/")
        return {"keyring": service, **({"account": account} if account else {})}
    return {kind: where}


def read_secret(what: str) -> str:
    """Ask for a secret without echo, or take the first line where standard input is no terminal."""
    if sys.stdin.isatty():
        secret: str = click.prompt(what, hide_input=True, err=True)
    else:
        secret = sys.stdin.readline(1024 * 1024)
    if not secret.strip():
        raise click.UsageError(f"{what}: nothing was given")
    return secret.strip()


def _grant_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    return {name: _json_or_text(value) for name, value in parsed_pairs("--grant-option", pairs)}


def parsed_pairs(option: str, pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE``."""
    split = [pair.partition("=") for pair in pairs]
    if not all(name and equals for name, equals, _ in split):
        raise click.UsageError(f"{option} takes NAME=VALUE")
    return [(name, value) for name, _, value in split]


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _store(given: Mapping[str, Any], previous: Profile | None) -> dict[str, Any]:
    text = given["store"]
    store = dict(previous.store) if previous else {"kind": "file"}
    if text is not None:
        kind, _, rest = text.partition(":")
        if kind == "file":
            store = {"kind": "file", "path": rest} if rest else {"kind": "file"}
        elif kind == "environment":
            store = {"kind": _engine_in(rest), "url": {"environment": rest}}
        else:
            store = {"kind": _engine_of(text), "url": text}
    if given["store_name"]:
        store["name"] = given["store_name"]
    return store


def _engine_in(variable: str) -> str:
    url = os.environ.get(variable, "")
    if not url:
        raise click.UsageError(f"--store: the environment variable {variable} is not set")
    return _engine_of(url)


def _engine_of(url: str) -> str:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in ("redis", "rediss", "unix", "valkey"):
        return "redis"
    if scheme in ("postgresql", "mysql", "mariadb", "sqlite"):
        return "sql"
    raise click.UsageError("--store takes file:PATH, or a URL such as redis:// or postgresql://")


def _key(given: Mapping[str, Any], previous: Profile | None) -> Any:
    if not given["keys"]:
        return previous.key if previous else None
    keys = [_key_reference(text) for text in given["keys"]]
    return keys[0] if len(keys) == 1 else keys


def _key_reference(text: str) -> dict[str, Any]:
    kind, _, where = text.partition(":")
    if kind == "key-file" and where:
        return {"key_file": where, "make": True}
    if kind.startswith("passphrase-"):
        return {"passphrase": secret_reference("--key", text.removeprefix("passphrase-"))}
    return secret_reference("--key", text)
