"""Where an issuer's endpoints are: its metadata (RFC 8414, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import InsecureTransport, SilentRefreshError
from ..grants.answer import EndpointAnswer, NoAnswer
from ..grants.token_endpoint import TokenEndpoint
from ..origin import Origin

_ENDPOINTS = (
    "authorization_endpoint",
    "device_authorization_endpoint",
    "revocation_endpoint",
)


class DiscoveryFailed(SilentRefreshError):  # noqa: N818 (named as the errors of errors.py are)
    """The issuer's metadata could not be had, or are not what they must be.

    ``transient`` says whether trying again later may help: the issuer could not
    be reached, or was busy.
    """

    def __init__(self, message: str, *, transient: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.transient = transient


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What an authorization server says about itself. URLs are https, or loopback.

    An endpoint is ``None`` where the server has none.
    ``code_challenge_methods`` is ``None`` where the server does not say which it
    knows; ``iss_in_callback`` is whether it promises to name itself in the
    authorization response (RFC 9207).
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    code_challenge_methods: tuple[str, ...] | None = None
    iss_in_callback: bool = False


def discover(issuer: str, *, timeout: float = 10.0, **network: Any) -> Metadata:
    """Fetch the metadata of ``issuer``, an https (or loopback) URL.

    RFC 8414's place is asked first, then OpenID Connect's two. ``network`` is
    ``verify``, ``cert`` and ``proxies``, as a grant has them. Blocks for
    ``timeout`` seconds in all at the most. Raises :class:`DiscoveryFailed`,
    ``InsecureTransport`` for a plain http issuer, and ``ValueError`` for what
    is no issuer.
    """
    _check_issuer(issuer)
    deadline = time.monotonic() + timeout
    problems, transient = [], False
    for url in _places(issuer):
        answer = TokenEndpoint(url, name="issuer", **network).get(deadline)
        if isinstance(answer, NoAnswer):
            raise DiscoveryFailed(
                f"{url} gave no answer ({answer.detail or answer.kind}): check the issuer's URL "
                "and the network",
                transient=answer.kind != "set-up",
            )
        if answer.status == 200 and answer.payload is not None:
            return _read(answer.payload, issuer, url)
        # On with the next place in any case: some servers answer 500 where they know no path.
        transient = transient or answer.status == 429 or answer.status >= 500
        problems.append(f"{url} answered {_described(answer)}")
    raise DiscoveryFailed(
        f"{issuer} publishes no metadata ({'; '.join(problems)}): "
        + ("try again later" if transient else "check the issuer, or give its endpoints by hand"),
        transient=transient,
    )


def _check_issuer(issuer: str) -> None:
    origin = Origin.of(issuer)
    if origin is None or "?" in issuer or "#" in issuer or "@" in issuer:
        raise ValueError(
            f"{issuer!r} is no issuer: give its https URL, without query and fragment, such as "
            "'https://auth.example.com'"
        )
    if not (origin.is_secure or origin.is_loopback):
        raise InsecureTransport(
            f"the issuer {issuer} is reached by plain http, where anybody on the way can send "
            "people to a login page of his own: use https"
        )


def _places(issuer: str) -> Iterator[str]:
    """Yield the URLs where the metadata may be, most likely first (RFC 8414 sections 3 and 5)."""
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{root}/.well-known/oauth-authorization-server{path}"
    yield f"{root}{path}/.well-known/openid-configuration"
    if path:
        yield f"{root}/.well-known/openid-configuration{path}"


def _read(payload: Mapping[str, Any], issuer: str, url: str) -> Metadata:
    named = payload.get("issuer")
    if named != issuer:
        # Identical (RFC 8414 section 3.3), lest another server's metadata pass for this one's.
        told = repr(named[:200]) if isinstance(named, str) else "nobody"
        raise DiscoveryFailed(
            f"the metadata at {url} name the issuer {told}, not {issuer!r}: if that is the one you "
            "mean, give it exactly so"
        )
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
    methods = payload.get("code_challenge_methods_supported")
    known = tuple(str(method) for method in methods) if isinstance(methods, list) else None
    return Metadata(
        issuer=issuer,
        code_challenge_methods=known,
        iss_in_callback=payload.get("authorization_response_iss_parameter_supported") is True,
        **found,
    )


def _described(answer: EndpointAnswer) -> str:
    if answer.status == 200:
        return "something that is no JSON object"
    redirect = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
    return f"{answer.status}{redirect}"
