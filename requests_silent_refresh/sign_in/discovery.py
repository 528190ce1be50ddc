"""Discovery of an issuer's endpoints from its metadata (RFC 8414, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import InsecureTransport
from ..grants.answer import EndpointAnswer, NoAnswer
from ..grants.token_endpoint import TokenEndpoint
from ..origin import Origin
from .client import SignInError

_ENDPOINTS = ("authorization_endpoint", "device_authorization_endpoint", "revocation_endpoint")


class DiscoveryFailed(SignInError):  # noqa: N818 (named like the errors in errors.py)
    """The issuer's metadata could not be fetched or are invalid."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata of an authorization server. All URLs are https or loopback.

    ``issuer`` is what the metadata call themselves. An endpoint is ``None`` if the server has
    none. ``code_challenge_methods`` and ``auth_methods`` (of the client, at the token endpoint)
    are ``None`` if the server does not list them. ``iss_in_callback`` is whether the server
    promises to name itself in the authorization response (RFC 9207).
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    code_challenge_methods: tuple[str, ...] | None = None
    auth_methods: tuple[str, ...] | None = None
    iss_in_callback: bool = False


def discover(issuer: str, *, timeout: float = 10.0, **network: Any) -> Metadata:
    """Fetch the metadata of ``issuer``, an https (or loopback) URL.

    Tries the URL of RFC 8414 first, then the two of OpenID Connect, and takes the first metadata
    of this issuer (see :func:`is_issuer`). The URL of the metadata will do for an issuer.
    ``network`` is ``verify``, ``cert`` and ``proxies``, as for a grant. Blocks for at most
    ``timeout`` seconds in total. Raises :class:`DiscoveryFailed`, ``InsecureTransport`` for a
    plain http issuer or endpoint, and ``ValueError`` for an invalid issuer.
    """
    issuer = _without_well_known(issuer)
    _check_issuer(issuer)
    deadline = time.monotonic() + timeout
    problems, transient = [], False
    for url in _metadata_urls(issuer):
        answer = TokenEndpoint(url, name="issuer", **network).get(deadline)
        if isinstance(answer, NoAnswer):
            raise DiscoveryFailed(
                f"{url} gave no answer ({answer.detail or answer.kind}): check the issuer's URL "
                "and the network",
                transient=answer.kind != "set-up",
            )
        payload = answer.payload or {}
        if answer.status == 200 and is_issuer(payload.get("issuer"), issuer):
            return _read(payload, url)
        # Try the next URL after any answer: some servers answer 500 for an unknown path, and
        # some gateways answer 200 with something else.
        transient = transient or answer.status == 429 or answer.status >= 500
        problems.append(f"{url} answered {_described(answer)}")
    raise DiscoveryFailed(
        f"{issuer} publishes no metadata of its own ({'; '.join(problems)}): "
        + ("try again later" if transient else "check the issuer, or give its endpoints yourself"),
        transient=transient,
    )


def is_issuer(named: object, issuer: str) -> bool:
    """Say whether ``named``, from metadata or a response, is ``issuer``.

    The two must be identical (RFC 8414 section 3.3), so that no other server's metadata are
    used, except for a closing slash, and for ``{tenantid}`` and the like in the path of
    ``named``, with which Microsoft Entra stands for any tenant.
    """
    if not isinstance(named, str) or Origin.of(named) != Origin.of(issuer):
        return False
    pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(named.rstrip("/")))
    return re.fullmatch(pattern, issuer.rstrip("/")) is not None


def _without_well_known(url: str) -> str:
    """Return the issuer whose metadata are at ``url``, or ``url`` if it is an issuer already."""
    root, _, rest = url.partition("/.well-known/")
    path = rest.partition("/")[2]
    return f"{root}/{path}" if path else root


def _check_issuer(issuer: str) -> None:
    origin = Origin.of(issuer)
    if origin is None or "?" in issuer or "#" in issuer or "@" in issuer:
        raise ValueError(
            f"{issuer!r} is not a valid issuer: give its https URL without user, query or "
            "fragment, such as 'https://auth.example.com'"
        )
    if not (origin.is_secure or origin.is_loopback):
        raise InsecureTransport(
            f"the issuer {issuer} uses plain http, so anyone on the network path can redirect "
            "people to another login page: use https"
        )


def _metadata_urls(issuer: str) -> Iterator[str]:
    """Yield the possible URLs of the metadata, the likeliest first (RFC 8414 sections 3 and 5)."""
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{root}/.well-known/oauth-authorization-server{path}"
    yield f"{root}{path}/.well-known/openid-configuration"
    if path:
        yield f"{root}/.well-known/openid-configuration{path}"


def _read(payload: Mapping[str, Any], url: str) -> Metadata:
    if not isinstance(payload.get("token_endpoint"), str):
        raise DiscoveryFailed(f"the metadata at {url} name no token_endpoint")
    found = {}
    for name in ("token_endpoint", *_ENDPOINTS):
        endpoint = payload.get(name)
        if not isinstance(endpoint, str):
            continue
        try:
            TokenEndpoint(endpoint, name=name)
        except ValueError as error:
            raise DiscoveryFailed(f"the metadata at {url} are unusable: {error}") from None
        found[name] = endpoint
    return Metadata(
        issuer=payload["issuer"],
        code_challenge_methods=_listed(payload, "code_challenge_methods_supported"),
        auth_methods=_listed(payload, "token_endpoint_auth_methods_supported"),
        iss_in_callback=payload.get("authorization_response_iss_parameter_supported") is True,
        **found,
    )


def _listed(payload: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    values = payload.get(name)
    return tuple(str(value) for value in values) if isinstance(values, list) else None


def _described(answer: EndpointAnswer) -> str:
    if answer.status == 200 and answer.payload is None:
        return "something that is not a JSON object"
    if answer.status == 200:
        named = (answer.payload or {}).get("issuer")
        return f"for the issuer {named[:200]!r}" if isinstance(named, str) else "for no issuer"
    redirect = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
    return f"{answer.status}{redirect}"
