"""How a profile is built from the options of a command."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import click

from ..origin import Origin
from ..profiles.profile import NETWORK, Profile, network_options
from .providers import filled_in

_SECRETS = ("environment", "file", "keyring")
_CLIENT = ("client_id", "client_secret", "client_auth")
_GRANT_ENDPOINTS = ("token_endpoint", "revocation_endpoint")
_SIGN_IN_ENDPOINTS = ("authorization_endpoint", "device_authorization_endpoint")


def profile_from(
    name: str, given: Mapping[str, Any], method: str | None, previous: Profile | None
) -> Profile:
    """Return the profile with the options applied; other settings keep their previous values.

    Asks the issuer for its endpoints. Raises ``click.UsageError`` if a required
    option is missing, and whatever discovery raises.
    """
    given = filled_in(given, dict(parsed_pairs("--at", given["places"])))
    old_grant = dict(previous.grant) if previous else {}
    old_sign_in = dict(previous.sign_in) if previous else {}
    origins = tuple(given["origins"]) or (previous.origins if previous else ())
    for origin in given["origins"]:
        _check_origin(origin)
    sign_in = _sign_in(given, method, old_sign_in)
    grant = _grant(given, old_grant, sign_in)
    _check_complete(given, origins, grant, sign_in)
    if grant["kind"] != "json":
        _find_endpoints(given, grant, sign_in)
    return Profile(
        name,
        origins,
        grant,
        _store(given, previous),
        _key(given, previous),
        _adapter_options(given, previous),
        {key: value for key, value in sign_in.items() if value not in (None, [], {})},
    )


def place_from(given: Mapping[str, Any], previous: Profile) -> Profile:
    """Return the profile with another store and key. Raises ``click.UsageError``."""
    return dataclasses.replace(previous, store=_store(given, previous), key=_key(given, previous))


def _adapter_options(given: Mapping[str, Any], previous: Profile | None) -> dict[str, Any]:
    pairs = parsed_pairs("--adapter-option", given["adapter_options"])
    old = dict(previous.adapter_options) if previous else {}
    return old | {name: _json_or_text(value) for name, value in pairs}


def _sign_in(given: Mapping[str, Any], method: str | None, old: dict[str, Any]) -> dict[str, Any]:
    sign_in = {**old}
    if given["token_endpoint"] or given["json_refresh"]:
        for name in ("issuer", "issuer_name", *_SIGN_IN_ENDPOINTS):
            sign_in.pop(name, None)
    for name in ("issuer", *_SIGN_IN_ENDPOINTS, "redirect_uri", "parameters"):
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
    pairs = parsed_pairs("--grant-option", given["grant_options"])
    options = {name: _json_or_text(value) for name, value in pairs}
    if given["json_refresh"] or (old.get("kind") == "json" and not given["client_id"]):
        kept = old if old.get("kind") == "json" else {}
        url = {"url": given["json_refresh"]} if given["json_refresh"] else {}
        return {**kept, "kind": "json", **url, **options}
    machine = sign_in.get("method") == "client-credentials"
    kind = "client_credentials" if machine else "refresh_token"
    if old.get("kind") != kind:  # keep only what identifies the client and reaches the server
        names = {*_CLIENT, *_GRANT_ENDPOINTS, *NETWORK}
        old = {name: value for name, value in old.items() if name in names}
    grant = {**old, "kind": kind, **options}
    if machine and sign_in.get("scope"):
        grant["scope"] = " ".join(sign_in["scope"])
    if machine and sign_in.get("parameters"):
        grant["extra"] = sign_in["parameters"]
    for name in ("client_id", "client_auth"):
        if given[name]:
            grant[name] = given[name]
    if given["client_secret"] == "none":  # noqa: S105 (a keyword, not a secret)
        grant.pop("client_secret", None)
    elif given["client_secret"] not in (None, "ask"):
        grant["client_secret"] = secret_reference("--client-secret", given["client_secret"])
    return grant


def _check_origin(text: str) -> None:
    try:
        Origin.parse(text)
    except ValueError as error:
        raise click.UsageError(f"--origin: {error}") from None


def _check_complete(
    given: Mapping[str, Any],
    origins: tuple[str, ...],
    grant: Mapping[str, Any],
    sign_in: Mapping[str, Any],
) -> None:
    """Raise ``click.UsageError`` that names every option that the profile still needs."""
    is_json = grant["kind"] == "json"
    endpoint = given["token_endpoint"] or grant.get("token_endpoint") or sign_in.get("issuer")
    missing = [
        option
        for option, is_given in (
            ("--issuer (or --token-endpoint, for other servers)", is_json or endpoint),
            ("--client-id", is_json or grant.get("client_id")),
            ("--origin (the server that may receive the token)", origins),
        )
        if not is_given
    ]
    if missing:
        raise click.UsageError(f"{', '.join(missing)}: missing")


def _find_endpoints(
    given: Mapping[str, Any], grant: dict[str, Any], sign_in: dict[str, Any]
) -> None:
    """Set the endpoints in ``grant`` and ``sign_in``; options override discovered endpoints."""
    issuer = sign_in.get("issuer")
    if issuer:
        from ..sign_in import discovery

        metadata = discovery.discover(issuer, **network_options(grant))
        pkce, auth = metadata.code_challenge_methods, metadata.auth_methods or ()
        if pkce and "S256" not in pkce and sign_in.get("method") == "browser":
            raise discovery.DiscoveryFailed(
                f"{issuer} supports PKCE only with {', '.join(pkce)}, "
                "not with S256: signing in there is not safe"
            )
        has_secret = "client_secret" in grant or given["client_secret"] == "ask"  # noqa: S105
        if has_secret and "client_secret_post" in auth and "client_secret_basic" not in auth:
            grant.setdefault("client_auth", "post")
        sign_in["issuer_name"] = metadata.issuer
        sign_in["iss_in_callback"] = metadata.iss_in_callback
    for settings, names in ((grant, _GRANT_ENDPOINTS), (sign_in, _SIGN_IN_ENDPOINTS)):
        for name in names:
            known = getattr(metadata, name) if issuer else settings.get(name)
            settings.pop(name, None)
            if value := given[name] or known:
                settings[name] = value


def secret_reference(option: str, text: str) -> dict[str, str]:
    """Parse ``environment:NAME`` and similar. Error messages never contain ``text``."""
    kind, colon, where = text.partition(":")
    if kind not in _SECRETS or not colon or not where:
        raise click.UsageError(
            f"{option} takes no secret, because every user of this machine can read arguments: "
            "give environment:NAME, file:PATH, keyring:SERVICE/ACCOUNT or 'ask'"
        )
    if kind == "keyring":
        service, _, account = where.partition("/")
        return {"keyring": service, **({"account": account} if account else {})}
    return {kind: where}


def parsed_pairs(option: str, pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split each ``NAME=VALUE``. Raises ``click.UsageError`` if one has another form."""
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
    raise click.UsageError(
        "--store takes file:PATH, environment:NAME, or a URL like redis://... or postgresql://..."
    )


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
