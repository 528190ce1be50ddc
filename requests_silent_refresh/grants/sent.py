"""What is sent to an endpoint: settings that are looked up for each exchange, and their secrets."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import requests

from ..errors import RefreshFailed, RefreshUnavailable, SessionExpired
from ..redaction import Secret
from ..secret_sources import ask
from ..token import Token

#: The value of a field or header: text, in which ``{refresh_token}`` and ``{access_token}`` stand
#: for the tokens to exchange, or a callable that is called for the text at each exchange.
Value = str | Callable[[], str]

# Fields and headers whose literal value must not be pickled; "client_assertion_type" may be.
_SECRET_NAME = re.compile(
    r"(?i)(?!.*_type\Z).*(secret|token|key|pass|pwd|assertion|authorization|cookie)"
)
_TEMPLATE = re.compile(r"\{(access|refresh)_token\}")


class Message(NamedTuple):
    """What is sent to an endpoint, and the secrets in it, which the answer may quote.

    ``query`` is added to the URL when the request is written, so that no log shows it.
    """

    body: bytes | None
    headers: Mapping[str, str]
    secrets: list[Secret]
    method: str = "POST"
    query: str = ""


def literal(value: Any) -> Any:
    """Wrap a secret so that no traceback shows it; return ``None`` and a callable as is.

    Called first in a constructor. A value of a wrong kind is replaced by its type, which the
    checks of the arguments refuse.
    """
    if value is None or callable(value) or isinstance(value, Secret):
        return value
    return Secret(value) if isinstance(value, str) else type(value)


def refresh_token_of(token: Token | None) -> str:
    """Return the refresh token in clear text; raises ``SessionExpired`` if there is none."""
    if token is None or token.refresh_token is None:
        raise SessionExpired("there is no refresh token to exchange: sign in (again)")
    return token.refresh_token.reveal()


def resolve(name: str, value: Any) -> Any:
    """Return the current value of a setting. A callable is called each time.

    Raises ``RefreshUnavailable`` if the callable raises ``requests.RequestException``, and
    ``RefreshFailed`` if it raises anything else or returns nothing.
    """
    if isinstance(value, Secret):
        return value.reveal()
    if not callable(value):
        return value
    return ask(
        value,
        name,
        failed=RefreshFailed,
        unavailable=RefreshUnavailable,
        passing=requests.RequestException,
    )


def resolved(values: Mapping[str, Any], token: Token | None) -> dict[str, Any]:
    """Return the current values of settings, with the tokens in place of their templates.

    Raises like :func:`resolve`, and ``SessionExpired`` if there is no such token.
    """
    return {name: _filled(resolve(name, value), token) for name, value in values.items()}


def _filled(value: Any, token: Token | None) -> Any:
    if isinstance(value, str):
        return _TEMPLATE.sub(lambda match: _token_for(match[1], token), value)
    if isinstance(value, Mapping):
        return resolved(value, token)
    return [_filled(inner, token) for inner in value] if isinstance(value, (list, tuple)) else value


def _token_for(kind: str, token: Token | None) -> str:
    if kind == "refresh":
        return refresh_token_of(token)
    if token is None:
        raise SessionExpired("there is no access token to exchange: sign in (again)")
    return token.access_token.reveal()


def templates_in(value: Any) -> set[str]:
    """Return for which kinds of tokens, "access" and "refresh", ``value`` has templates."""
    if isinstance(value, str):
        return set(_TEMPLATE.findall(value))
    inner = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, list, tuple)):
        return set()
    return set().union(*map(templates_in, inner))


def secrets_among(sent: Any, *, secret: bool = False) -> Iterator[Secret]:
    """Yield the values that are sent under names that suggest a secret, and what is in them.

    ``sent`` is a mapping of fields or headers. Credentials are also yielded without their
    scheme, and those of ``Basic`` decoded.
    """
    if isinstance(sent, Mapping):
        for name, value in sent.items():
            yield from secrets_among(value, secret=secret or is_secret_name(name))
    elif isinstance(sent, (list, tuple)):
        for value in sent:
            yield from secrets_among(value, secret=secret)
    elif secret and isinstance(sent, str):
        scheme, _, credentials = sent.partition(" ")
        yield from map(Secret, (sent, credentials))
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):  # it is not base64 of text
                pair = base64.b64decode(credentials).decode()
                password = pair.partition(":")[2]
                yield from map(Secret, (pair, password, unquote_plus(password)))


def is_secret_name(name: str) -> bool:
    """Return whether a field or header of this name usually holds a secret."""
    return bool(_SECRET_NAME.match(name))


def sources_in(label: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the callables in ``value``, also in nested objects, and how to name them."""
    if callable(value):
        yield label, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from sources_in(f"{label}[{name!r}]", inner)


def without_sources(value: Any) -> Any:
    """Return a copy of ``value`` with a text in place of each callable."""
    if isinstance(value, Mapping):
        return {name: without_sources(inner) for name, inner in value.items()}
    return "" if callable(value) else value


def literal_secrets(what: str, values: Mapping[str, Any]) -> Iterable[str]:
    """Yield the names of those ``values`` that are literals and whose name suggests a secret."""
    for name, value in values.items():
        label = f"{what}[{name!r}]"
        if not is_secret_name(name) and isinstance(value, Mapping):
            yield from literal_secrets(label, value)
        # What is a template contains no secret of its own.
        elif is_secret_name(name) and not callable(value) and not templates_in(value):
            yield label
