"""``SilentRefreshAdapter``: the transport adapter between a session and an API."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import select_proxy

from . import challenge
from .connections import QuietHTTPAdapter
from .errors import InsecureTransport, SilentRefreshError
from .manager import TokenManager
from .origin import Origin
from .redaction import HeaderValue
from .replay import is_rewindable, keep_body, rewind, shallow_copy, with_cookies_of
from .token import Token

logger = logging.getLogger("requests_silent_refresh")

MAX_REPLAYS = 2


def _unmarked(response: Response, *args: Any, **kwargs: Any) -> None:
    """The mark of :func:`without_token`: a response hook that does nothing."""


def _path(request: PreparedRequest) -> str:
    """The origin and path of a request: where a token is accepted or rejected."""
    return (request.url or "").partition("#")[0].partition("?")[0]


def without_token(request: PreparedRequest) -> PreparedRequest:
    """Send one request without a token: ``session.get(url, auth=without_token)``.

    Its own ``Authorization`` header, if it has one, is left alone, on every
    redirect too. The mark travels among the request's hooks, the one place that
    ``PreparedRequest.copy`` keeps.
    """
    request.register_hook("response", _unmarked)
    return request


class SilentRefreshAdapter(QuietHTTPAdapter):
    """Adds the manager's token to requests of its origins and replays what was rejected.

    Mount it with :meth:`mount_on` or ``session.mount``; requests to anything but
    ``origins`` pass through untouched whatever the mount's prefix is (P11). May
    be shared by sessions and threads.

    ``manager``
        Knows the token; see :class:`TokenManager`. Any number of adapters share one.
    ``origins``
        One origin or several, as ``"https://api.example.com"``: who may see a token.
    ``transport``
        Another adapter to send through, which is neither closed nor configured
        here; ``None`` sends as an ``HTTPAdapter`` does, with ``http_adapter_options``.
    ``is_rejected``
        ``is_rejected(response) -> bool``: whether the server did not take the
        token. ``None``: a 401, unless its challenges offer no such scheme or say
        ``insufficient_scope`` (RFC 6750 section 3).
    ``skip``
        ``skip(request) -> bool``: requests to send without a token.
    ``header``, ``scheme``
        Where the token goes: ``Authorization: Bearer ...``; an empty scheme
        sends the token alone. On its origins the adapter owns this header.
    ``allow_insecure_http``
        Lets tokens travel over plain http, where others can read them.

    Raises ``ValueError`` for an origin that is none and for ``max_retries`` that
    would retry a 401 below the adapter, ``InsecureTransport`` for a plain http
    origin that is not this machine.
    """

    __attrs__ = [  # noqa: RUF012 (the name and kind that HTTPAdapter pickles by)
        *HTTPAdapter.__attrs__,
        "manager",
        "origins",
        "transport",
        "_is_rejected",
        "_skip",
        "_header",
        "_scheme",
        "_allow_insecure_http",
    ]

    def __init__(
        self,
        manager: TokenManager,
        origins: str | Origin | Iterable[str | Origin],
        *,
        transport: BaseAdapter | None = None,
        is_rejected: Callable[[Response], bool] | None = None,
        skip: Callable[[PreparedRequest], bool] | None = None,
        header: str = "Authorization",
        scheme: str = "Bearer",
        allow_insecure_http: bool = False,
        **http_adapter_options: Any,
    ) -> None:
        if transport is not None and http_adapter_options:
            raise ValueError(
                f"{', '.join(http_adapter_options)}: these belong to the transport that was given"
            )
        if isinstance(origins, (str, Origin)):
            origins = [origins]
        self.manager = manager
        self.origins = frozenset(o if isinstance(o, Origin) else Origin.parse(o) for o in origins)
        if not self.origins:
            raise ValueError("give at least one origin, as 'https://api.example.com'")
        self.transport = transport
        self._is_rejected = is_rejected
        self._skip = skip
        self._header = header
        self._scheme = scheme
        self._allow_insecure_http = allow_insecure_http
        super().__init__(**http_adapter_options)
        for retries in (self.max_retries, getattr(transport, "max_retries", None)):
            if retries is not None and 401 in (retries.status_forcelist or ()):
                raise ValueError(
                    "max_retries has 401 in its status_forcelist: urllib3 would send the rejected "
                    "token again and again below this adapter; take it out"
                )
        self._check_transport_security()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools; ``requests`` calls this at construction and on unpickling."""
        super().init_poolmanager(*args, **kwargs)
        # Derived here, because unpickling does not call __init__.
        self._secure_prefixes = tuple(o.prefix for o in self.origins if o.is_secure)
        self._plain_prefixes = tuple(o.prefix for o in self.origins if not o.is_secure)
        self._last_value: tuple[Token | None, HeaderValue] = (None, HeaderValue(""))

    def _check_transport_security(self) -> None:
        for origin in self.origins:
            if origin.is_secure or origin.is_loopback:
                continue
            if not self._allow_insecure_http:
                raise InsecureTransport(
                    f"{origin} is plain http, where everybody on the way reads the token: use "
                    "https, or say allow_insecure_http=True for an old intranet"
                )
            warnings.warn(
                f"tokens for {origin} travel over plain http and can be read on the way",
                stacklevel=3,
            )

    def mount_on(self, session: Session) -> None:
        """Mount this adapter for each of its origins.

        Without a closing slash, so that ``https://api.example.com:443/`` and a
        trailing dot get here too. The prefix is no boundary, the origins are.
        """
        for origin in self.origins:
            session.mount(str(origin), self)

    def close(self) -> None:
        """Close the adapter's own connections; never the manager or a given transport."""
        super().close()

    # -- sending ---------------------------------------------------------------

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send ``request`` with a fresh token; renew and replay where it is rejected.

        As ``HTTPAdapter.send``, and besides raises ``SessionExpired``,
        ``RefreshFailed``, ``RefreshUnavailable``, ``RefreshTimeout``,
        ``StoreError`` or ``InsecureTransport``. A refresh adds ``wait_timeout``
        at most to the time it blocks; ``timeout`` does not bound that.
        """
        how = {
            "stream": stream,
            "timeout": timeout,
            "verify": verify,
            "cert": cert,
            "proxies": proxies,
        }
        if not self._carries_token(request, proxies):
            return self._transmit(request, how)
        try:
            token = self.manager.token()
        except SilentRefreshError as error:
            error.request = request
            raise
        response = self._send_with(token, request, request, how)
        if self._rejects(response):
            return self._renew_and_replay(token, request, response, how)
        if self.manager.futility.active:
            self.manager.futility.accepted(_path(request), token)
        return response

    def _renew_and_replay(
        self, token: Token, request: PreparedRequest, response: Response, how: dict[str, Any]
    ) -> Response:
        rejected: list[Response] = []
        again = request
        path = _path(request)
        while len(rejected) < MAX_REPLAYS and self.manager.may_renew(token, path):
            if not is_rewindable(request):
                logger.warning(
                    "a request to %s was rejected and its body cannot be sent again: the 401 is "
                    "handed back, the token is refreshed for the next one",
                    Origin.of(request.url),
                )
                self.manager.start_refresh(token)
                return response
            keep_body(response)
            try:
                token = self.manager.renew(token)
            except SilentRefreshError as error:
                error.request = request
                error.response = response
                raise
            again = with_cookies_of(again, response)
            rewind(request)
            rejected.append(response)
            self.manager.replayed()
            response = self._send_with(token, again, request, how)
            response.history = [*rejected, *response.history]
            if not self._rejects(response):
                self.manager.futility.accepted(path, token)
                break
            self.manager.futility.rejected(path, token)
        return response

    def _send_with(
        self, token: Token, request: PreparedRequest, callers: PreparedRequest, how: dict[str, Any]
    ) -> Response:
        """Send a copy with the token; what comes back shows the caller's request without it."""
        outgoing = shallow_copy(request)
        outgoing.headers[self._header] = self._value(token)
        try:
            response = self._transmit(outgoing, how)
        except RequestException as error:
            if error.request is outgoing:
                error.request = callers
            raise
        response.request = callers
        return response

    def _transmit(self, request: PreparedRequest, how: dict[str, Any]) -> Response:
        if self.transport is None:
            return super().send(request, **how)
        response = self.transport.send(request, **how)
        response.connection = self  # a hook may send again through it
        return response

    def _value(self, token: Token) -> HeaderValue:
        known, value = self._last_value
        if known is not token:
            secret = token.access_token.reveal()
            value = HeaderValue(f"{self._scheme} {secret}" if self._scheme else secret)
            self._last_value = (token, value)
        return value

    def _rejects(self, response: Response) -> bool:
        if self._is_rejected is not None:
            return self._is_rejected(response)
        return response.status_code == 401 and challenge.is_rejected(response, self._scheme)

    # -- which requests ----------------------------------------------------------

    def _carries_token(self, request: PreparedRequest, proxies: Any) -> bool:
        url = request.url or ""
        if not url.startswith(self._secure_prefixes):
            # A prefix proves the origin; only oddly written URLs need to be taken apart.
            if not url.startswith(self._plain_prefixes):
                origin = Origin.of(url)
                if origin not in self.origins:
                    return False
            if proxies and not self._allow_insecure_http:
                self._refuse_proxy(url, proxies)
        if _unmarked in request.hooks["response"]:
            return False
        return self._skip is None or not self._skip(request)

    def _refuse_proxy(self, url: str, proxies: Any) -> None:
        origin = Origin.of(url)
        if origin is not None and not origin.is_secure and select_proxy(url, proxies):
            raise InsecureTransport(
                f"{origin} is plain http, which is safe on this machine only, but a proxy applies "
                "to it and would read the token: list its host in NO_PROXY"
            )
