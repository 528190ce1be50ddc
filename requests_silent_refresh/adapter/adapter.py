"""``SilentRefreshAdapter``: the transport adapter between a session and an API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import BaseAdapter, HTTPAdapter

from ..errors import SilentRefreshError
from ..manager.manager import TokenManager
from ..origin import Origin
from ..redaction import HeaderValue
from ..system.forking import reset_in_child
from ..system.quiet_pools import QuietHTTPAdapter, unconnected
from ..token import Token
from . import challenge
from .boundary import Boundary, without_token
from .drain import keep_body
from .resend import is_rewindable, rewind, show_callers, with_cookies_of, with_header

__all__ = ["SilentRefreshAdapter", "without_token"]

logger = logging.getLogger("requests_silent_refresh")

MAX_REPLAYS = 2
MAX_RENEWALS = 2


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
        here, nor given new connections after a ``fork``; ``None`` sends as an
        ``HTTPAdapter`` does, with ``http_adapter_options``.
    ``is_rejected``
        ``is_rejected(response) -> bool``: whether the server did not take the
        token. Called with every response that a token went out for; one that
        reads the body ends streaming. ``None``: a 401, unless its challenges
        offer no such scheme or say ``insufficient_scope`` (RFC 6750 section 3).
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

    ``close`` closes the adapter's own connections; never the manager or a given
    transport. A pickle takes the settings, and the manager's and the transport's.
    """

    __attrs__ = [  # noqa: RUF012 (the name and kind that HTTPAdapter pickles by)
        *HTTPAdapter.__attrs__,
        "manager",
        "origins",
        "transport",
        "_boundary",
        "_is_rejected",
        "_header",
        "_scheme",
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
        self.manager = manager
        self._boundary = Boundary(origins, skip, allow_insecure_http)
        self.origins = self._boundary.origins
        self.transport = transport
        self._is_rejected = is_rejected
        self._header = header
        self._scheme = scheme
        super().__init__(**http_adapter_options)
        for retries in (self.max_retries, getattr(transport, "max_retries", None)):
            if 401 in (getattr(retries, "status_forcelist", None) or ()):
                raise ValueError(
                    "max_retries has 401 in its status_forcelist: urllib3 would send the rejected "
                    "token again and again below this adapter; take it out"
                )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools; ``requests`` calls this at construction and on unpickling."""
        super().init_poolmanager(*args, **kwargs)
        # Here, because unpickling does not call __init__ and no pickle holds a token.
        self._last_value: tuple[Token | None, HeaderValue] = (None, HeaderValue(""))
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent: on one that both use each reads the other's answers.

        They are kept, not closed: their pools' locks may be held by threads that are not here.
        """
        self._parents = (self.poolmanager, self.proxy_manager, getattr(self, "_parents", None))
        self.poolmanager = unconnected(self.poolmanager)
        self.proxy_manager = {url: unconnected(m) for url, m in self.proxy_manager.items()}

    def mount_on(self, session: Session) -> None:
        """Mount this adapter for each of its origins.

        Without a closing slash, so that ``https://api.example.com:443/`` and a
        trailing dot get here too. The prefix is no boundary, the origins are. A
        URL with user information (``https://user@api.example.com``) does not get
        here and carries no token.
        """
        for origin in self.origins:
            session.mount(str(origin), self)

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
        if not self._boundary.admits(request, verify, proxies):
            return self._transmit(request, how)
        if request.body is not None and not is_rewindable(request):
            return self._send_upload(request, how)
        renewals = 0
        try:
            token = self.manager.usable_token()
            if token is None:
                renewals = 1
                token = self.manager.renew(None)
        except SilentRefreshError as error:
            error.request = request
            raise
        response = self._send_with(token, request, request, how)
        if self._rejects(response):
            return self._renew_and_replay(token, request, response, how, renewals)
        if self.manager.futility.active:
            self.manager.futility.accepted(_path(request), token)
        return response

    def _renew_and_replay(
        self,
        token: Token,
        request: PreparedRequest,
        response: Response,
        how: dict[str, Any],
        renewals: int,
    ) -> Response:
        rejected: list[Response] = []
        again = request
        path = _path(request)
        while len(rejected) < MAX_REPLAYS and renewals < MAX_RENEWALS:
            if not self.manager.may_renew(token, path):
                break
            if not rewind(request):
                return self._hand_back(token, request, response)
            keep_body(response)
            try:
                token = self.manager.renew(token)
            except SilentRefreshError as error:
                error.request = request
                error.response = response
                raise
            renewals += 1
            again = with_cookies_of(again, response)
            rejected.append(response)
            self.manager.replayed()
            response = self._send_with(token, again, request, how)
            response.history = [*rejected, *response.history]
            if not self._rejects(response):
                self.manager.futility.accepted(path, token)
                break
            self.manager.futility.rejected(path, token)
        return response

    def _send_upload(self, request: PreparedRequest, how: dict[str, Any]) -> Response:
        """Send a body that can't be sent again, with a token that lasts until it was (P15)."""
        try:
            upload = self.manager.begin_upload()
        except SilentRefreshError as error:
            error.request = request
            raise
        token = upload.token
        try:
            response = self._send_with(token, request, request, how)
        finally:
            self.manager.end_upload(upload)
        if self._rejects(response):
            return self._hand_back(token, request, response)
        if self.manager.futility.active:
            for place in _upload_places(request):
                self.manager.futility.accepted(place, token)
        return response

    def _hand_back(self, token: Token, request: PreparedRequest, response: Response) -> Response:
        """Return a rejected response unread, and refresh in the background for the next request."""
        logger.warning(
            "a request to %s was rejected and its body cannot be sent again: the %d is handed "
            "back, the token is refreshed for the next one",
            Origin.of(request.url),
            response.status_code,
        )
        places = _upload_places(request)
        if all(self.manager.may_renew(token, place) for place in places):
            self.manager.start_refresh(token)
        for place in places:
            self.manager.futility.rejected(place, token)
        return response

    def _send_with(
        self, token: Token, request: PreparedRequest, callers: PreparedRequest, how: dict[str, Any]
    ) -> Response:
        """Send a copy with the token; what comes back shows the caller's request without it."""
        known, value = self._last_value
        if known is not token:
            value = self._value(token)
        outgoing = with_header(request, self._header, value)
        try:
            response = self._transmit(outgoing, how)
        except RequestException as error:
            show_callers(error, outgoing, callers)
            raise
        response.request = callers
        for earlier in response.history:  # of a transport that sends again by itself
            if earlier.request is outgoing:
                earlier.request = callers
        return response

    def _transmit(self, request: PreparedRequest, how: dict[str, Any]) -> Response:
        if self.transport is None:
            return super().send(request, **how)
        response = self.transport.send(request, **how)
        response.connection = self  # a hook may send again through it
        return response

    def _value(self, token: Token) -> HeaderValue:
        # In no variable until it is masked, since a traceback may show those.
        value = HeaderValue(f"{self._scheme} {token.access_token.reveal()}".lstrip(" "))
        self._last_value = (token, value)
        return value

    def _rejects(self, response: Response) -> bool:
        if self._is_rejected is None:
            return response.status_code == 401 and challenge.is_rejected(response, self._scheme)
        try:
            return self._is_rejected(response)
        except BaseException:
            response.close()  # nobody else will, and a blocking pool misses the connection
            raise


def _path(request: PreparedRequest) -> str:
    """The origin and path of a request: where a token is accepted or rejected."""
    return (request.url or "").partition("#")[0].partition("?")[0]


def _upload_places(request: PreparedRequest) -> tuple[str, str]:
    """Where an upload was accepted or rejected: its path, and all uploads to its origin.

    The latter because uploads often have a path each, and none is tried twice:
    where every token is rejected, each would ask for a refresh.
    """
    return _path(request), f"uploads to {Origin.of(request.url)}"
