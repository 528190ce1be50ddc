"""Which requests carry a token: those to its own origins, over connections nobody reads (P11)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from requests import PreparedRequest, Response
from requests.utils import select_proxy
from urllib3.exceptions import InsecureRequestWarning

from ..errors import InsecureTransport
from ..origin import Origin
from ..system.warnings_once import warn_once


def _unmarked(response: Response, *args: Any, **kwargs: Any) -> None:
    """The mark of :func:`without_token`: a response hook that does nothing."""


def without_token(request: PreparedRequest) -> PreparedRequest:
    """Send one request without a token: ``session.get(url, auth=without_token)``.

    Its own ``Authorization`` header, if it has one, is left alone, on every
    redirect too. The mark travels among the request's hooks, the one place that
    ``PreparedRequest.copy`` keeps. May be called again; changes only this request.
    """
    hooks = request.hooks or {}
    registered = hooks.get("response") or []
    if callable(registered):
        registered = [registered]
    # In a list of its own, since a copy of the request shares the other with it.
    request.hooks = {**hooks, "response": [*registered, _unmarked]}
    return request


def is_marked(request: PreparedRequest) -> bool:
    """Say whether :func:`without_token` marked the request, or what it is a copy of."""
    hooks = request.hooks.get("response") if request.hooks else None
    if not hooks:
        return False
    return hooks is _unmarked if callable(hooks) else _unmarked in hooks


class Boundary:
    """Decides for each request, on each hop of a redirect, whether it may carry a token.

    Immutable, picklable and thread-safe. Raises ``ValueError`` for an origin
    that is none, ``InsecureTransport`` for a plain http origin that is not this
    machine, unless ``allow_insecure_http``, which warns.
    """

    def __init__(
        self,
        origins: str | Origin | Iterable[str | Origin],
        skip: Callable[[PreparedRequest], bool] | None,
        allow_insecure_http: bool,
    ) -> None:
        if isinstance(origins, (str, Origin)):
            origins = [origins]
        self.origins = frozenset(o if isinstance(o, Origin) else Origin.parse(o) for o in origins)
        if not self.origins:
            raise ValueError("give at least one origin, as 'https://api.example.com'")
        self._skip = skip
        self._allow_insecure_http = allow_insecure_http
        self._secure_prefixes = tuple(o.prefix for o in self.origins if o.is_secure)
        self._plain_prefixes = tuple(o.prefix for o in self.origins if not o.is_secure)
        for origin in self.origins:
            if not (origin.is_secure or origin.is_loopback):
                self._allow_or_raise(origin)

    def _allow_or_raise(self, origin: Origin) -> None:
        if not self._allow_insecure_http:
            raise InsecureTransport(
                f"{origin} is plain http, where everybody on the way reads the token: use "
                "https, or say allow_insecure_http=True for an old intranet"
            )
        warnings.warn(
            f"tokens for {origin} travel over plain http and can be read on the way",
            stacklevel=4,  # whoever makes the adapter
        )

    def admits(self, request: PreparedRequest, verify: bool | str | None, proxies: Any) -> bool:
        """Say whether ``request`` carries a token when it is sent so.

        Raises ``InsecureTransport`` where a proxy would read it. Takes no URL apart
        that is written as usual: a prefix with its closing slash proves the origin
        (see :attr:`Origin.prefix`).
        """
        url = request.url or ""
        if url.startswith(self._secure_prefixes):
            secure = True
        elif url.startswith(self._plain_prefixes):
            secure = False
        else:
            origin = Origin.of(url)
            if origin is None or origin not in self.origins:
                return False
            secure = origin.is_secure
        if is_marked(request) or (self._skip is not None and self._skip(request)):
            return False
        if proxies and not secure and not self._allow_insecure_http:
            _refuse_proxy(request, url, proxies)
        if not verify:
            _warn_unverified(url)
        return True


def _refuse_proxy(request: PreparedRequest, url: str, proxies: Any) -> None:
    if select_proxy(url, proxies):
        raise InsecureTransport(
            f"{Origin.of(url)} is plain http, which is safe on this machine only, but a "
            "proxy applies to it and would read the token: list its host in NO_PROXY",
            request=request,
        )


def _warn_unverified(url: str) -> None:
    """Warn that anybody can pose as the origin; with urllib3's warning, which is silenced alike."""
    origin = Origin.of(url)
    if origin is not None and origin.scheme == "https":
        warn_once(
            f"tokens for {origin} go to whoever answers there, because of verify=False: "
            "give verify= the file of its certificate authority",
            InsecureRequestWarning,
            stacklevel=4,  # where the session sends
        )
