"""The facts about a provider as text, for the command line and the page of the docs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .provider import DAY, HOUR, MINUTE, Provider, Reply

_UNITS = {"day": DAY, "hour": HOUR, "minute": MINUTE, "second": 1.0}


def rows(provider: Provider) -> Iterator[tuple[str, str]]:
    """Yield a label and a text for each fact that is known, in the order of reading."""
    for label, field, text_of in _ROWS:
        value = getattr(provider, field)
        if value not in (None, (), {}):
            yield label, text_of(value)
        if field == "revocation_endpoint":
            for name in provider.places:
                default = provider.defaults.get(name)
                yield name, f"{default} unless given" if default else "must be given"


def _words(words: tuple[str, ...]) -> str:
    return " ".join(words)


def _pairs(fields: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _reply(reply: Reply) -> str:
    return f"{reply.status} {json.dumps(reply.fields)}"


def _replies(replies: tuple[Reply, ...]) -> str:
    return "; ".join(map(_reply, replies))


def _yes_no(value: bool | str) -> str:
    return "as the administrator decides" if value == "optional" else "yes" if value else "no"


def _time(seconds: float) -> str:
    if seconds in (0, math.inf):
        return "no time" if seconds == 0 else "no limit"
    unit, size = next((unit, size) for unit, size in _UNITS.items() if seconds % size == 0)
    number = seconds / size
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("Authorization endpoint", "authorization_endpoint", str),
    ("Token endpoint", "token_endpoint", str),
    ("Device authorization endpoint", "device_authorization_endpoint", str),
    ("Revocation endpoint", "revocation_endpoint", str),
    ("Grant type", "grant_type", str),
    ("Client authentication", "client_auth", str),
    ("Scope for a refresh token", "scope", _words),
    ("Parameters of the sign-in", "parameters", _pairs),
    ("Further fields of a token request", "extra", _words),
    ("Refuses a dead refresh token by", "refused", _replies),
    ("Rejects an access token by", "rejected", _reply),
    ("A refresh spends the refresh token", "rotates", _yes_no),
    ("A spent refresh token is accepted for", "grace", _time),
    ("A refresh ends the old access token", "rotation_ends_access_token", _yes_no),
    ("Early refreshes are refused", "refuses_early", _yes_no),
    ("Lifetime of a session that is not refreshed", "idle_lifetime", _time),
    ("Lifetime of a session in any case", "absolute_lifetime", _time),
    ("Lifetime of an access token", "access_token_lifetime", _time),
)
