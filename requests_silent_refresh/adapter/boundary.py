"""Which requests carry a token: those to its origins, over connections nobody can read (P11)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from requests import PreparedRequest, Response
from requests.utils import select_proxy
from urllib3.exceptions import InsecureRequestWarning

from .. import arguments
from ..errors import InsecureTransport
from ..origin import Origin
from ..system.warnings_once import warn_once

logger = logging.getLogger("requests_silent_refresh")


def _unmarked(response: Response, *args: Any, **kwargs: Any) -> None:
    """Mark a request for :func:`without_token`: a response hook that does nothing."""


def without_token(request: PreparedRequest) -> PreparedRequest:
    """Send one request without a token: ``session.get(url, auth=without_token)``.

    The request's own ``Authorization`` header, if any, is left unchanged, also on
    redirects. The mark is one of the request's hooks, because ``PreparedRequest.copy``
    keeps those. May be called more than once; changes only this request.
    """
    hooks = request.hooks or {}
    registered = hooks.get("response") or []
    if callable(registered):
        registered = [registered]
    # A new list, because copies of the request share the old one.
    request.hooks = {**hooks, "response": [*registered, _unmarked]}
    return request


def is_marked(request: PreparedRequest) -> bool:
    """Return whether :func:`without_token` marked the request, or the one it was copied from."""
    hooks = request.hooks.get("response") if request.hooks else None
    if not hooks:
        return False
    return hooks is _unmarked if callable(hooks) else _unmarked in hooks


class Boundary:
    """Decides whether a request may carry a token, for each hop of a redirect anew.

    Immutable, picklable and thread-safe. Raises ``TypeError`` or ``ValueError`` for a wrong
    argument, and ``InsecureTransport`` for a plain http origin that is not on this machine;
    with ``allow_insecure_http`` it warns about such an origin instead.
    """

    def __init__(
        self,
        origins: str | Origin | Iterable[str | Origin],
        skip: Callable[[PreparedRequest], bool] | None,
        allow_insecure_http: bool,
    ) -> None:
        if isinstance(origins, (str, Origin)):
            origins = [origins]
        arguments.instances(Iterable, "an origin or several", origins=origins)
        self.origins = frozenset(o if isinstance(o, Origin) else Origin.parse(o) for o in origins)
        if not self.origins:
            raise ValueError("give at least one origin, such as 'https://api.example.com'")
        arguments.functions(**arguments.given(skip=skip))
        arguments.flags(allow_insecure_http=allow_insecure_http)
        self._skip = skip
        self._allow_insecure_http = allow_insecure_http
        self._secure_prefixes = tuple(o.prefix for o in self.origins if o.is_secure)
        self._plain_prefixes = tuple(o.prefix for o in self.origins if not o.is_secure)
        for origin in self.origins:
            if origin.is_secure or origin.is_loopback:
                continue
            if not allow_insecure_http:
                raise InsecureTransport(
                    f"{origin} is plain http, so anyone on the network path can read the token: "
                    "use https, or pass allow_insecure_http=True for an old intranet"
                )
            warnings.warn(
                f"tokens for {origin} are sent over plain http and can be read on the way",
                stacklevel=3,  # the line that creates the adapter
            )

    def admits(self, request: PreparedRequest, verify: bool | str | None, proxies: Any) -> bool:
        """Return whether ``request``, sent with these options, carries a token.

        Raises ``InsecureTransport`` if a proxy would read the token. Most URLs need no
        parsing, because a prefix with its closing slash proves the origin (see
        :attr:`Origin.prefix`).
        """
        url = request.url or ""
        if url.startswith(self._secure_prefixes):
            secure = True
        elif url.startswith(self._plain_prefixes):
            secure = False
        else:
            origin = Origin.of(url)
            if origin is None or origin not in self.origins:
                logger.debug(
                    "sent without a token: the request's origin, %s, is none of %s",
                    origin or "which cannot be told from its URL",
                    ", ".join(sorted(map(str, self.origins))),
                )
                return False
            secure = origin.is_secure
        if is_marked(request) or (self._skip is not None and self._skip(request)):
            return False
        if proxies and not secure and not self._allow_insecure_http and select_proxy(url, proxies):
            raise InsecureTransport(
                f"{Origin.of(url)} is plain http, which is safe only on this machine, but a proxy "
                "applies to the request and would read the token: list its host in NO_PROXY",
                request=request,
            )
        if not verify:
            _warn_unverified(url)
        return True


def _warn_unverified(url: str) -> None:
    """Warn that any server can pose as the origin; silenced along with urllib3's own warning."""
    origin = Origin.of(url)
    if origin is not None and origin.scheme == "https":
        warn_once(
            f"tokens for {origin} are sent to any server that answers, because of verify=False: "
            "set verify= to the file of its certificate authority",
            InsecureRequestWarning,
            stacklevel=4,  # the line in which the session sends
        )
