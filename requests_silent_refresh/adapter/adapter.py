"""``SilentRefreshAdapter``: the transport adapter between a session and an API."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from .. import arguments
from ..errors import SessionExpired, SilentRefreshError
from ..manager.futility import place_of, upload_places
from ..manager.manager import TokenManager
from ..origin import Origin
from ..redaction import HeaderValue
from ..system.forking import reset_in_child
from ..system.quiet_pools import QuietHTTPAdapter, unconnected
from ..token import Token
from . import placement
from .boundary import Boundary, without_token
from .cassettes import mask_in_yaml
from .challenge import rejects_token
from .checks import check, is_rejected_of
from .drain import keep_body
from .resend import is_rewindable, rewind, show_callers, with_cookies_of, with_header

__all__ = ["SilentRefreshAdapter", "without_token"]

logger = logging.getLogger("requests_silent_refresh")

MAX_REPLAYS = 2
MAX_RENEWALS = 2


class SilentRefreshAdapter(QuietHTTPAdapter):
    """Adds the manager's token to requests to its origins, and replays those that are rejected.

    >>> session = requests.Session()
    >>> SilentRefreshAdapter(manager, "https://api.example.com").mount_on(session)
    >>> session.get_adapter("https://api.example.com/me").manager.signed_in
    True

    Mount it with :meth:`mount_on` or ``session.mount``. Requests to any origin not in
    ``origins`` are passed through unchanged, whatever prefix it is mounted at (P11).
    Sessions and threads may share one adapter.

    ``manager``
        The :class:`TokenManager` that provides the tokens. Adapters may share one.
    ``origins``
        One origin or several (``"https://api.example.com"``) that may receive the token.
    ``transport``
        Another adapter to send through. It is not closed or configured here, and keeps
        its connections after a ``fork``. ``None`` sends as an ``HTTPAdapter`` does,
        with ``http_adapter_options``.
    ``is_rejected``
        ``is_rejected(response) -> bool``: whether the server rejected the token. Called
        with every response to a request that carried one; a function that reads the body
        ends streaming. ``None`` means a 401, unless a challenge of ``scheme`` says that
        no refresh helps: ``insufficient_scope`` (RFC 6750 section 3.1),
        ``insufficient_user_authentication`` (RFC 9470), ``insufficient_claims`` or
        ``use_dpop_nonce``. For an API that answers 403, or 200 with an error in its body, see
        :class:`RejectedBy`. What it raises is raised as it is, and closes the response.
    ``skip``
        ``skip(request) -> bool``: True for requests to send without a token.
    ``header``, ``scheme``
        How the token is sent: ``Authorization: Bearer ...`` by default; an empty scheme
        sends the bare token. The adapter replaces this header on its origins.
    ``cookie``, ``query_parameter``
        Sends the token in a cookie or query parameter of this name instead, without showing
        it in a log, an error or ``response.url``. Not with a ``transport``.
    ``allow_insecure_http``
        Sends tokens over plain http too, where others can read them.

    Raises ``TypeError`` for an argument of a wrong kind, naming it. Raises ``ValueError``
    for an invalid origin, for a ``header`` or ``scheme`` with a blank, a colon or a line
    break, for ``http_adapter_options`` next to a ``transport``, and for ``max_retries`` that
    retry a 401 below the adapter. Raises ``InsecureTransport`` for a plain http origin elsewhere.

    ``close`` closes the adapter's own connections, but not the manager or a given
    transport. Pickling keeps the settings, the manager and the transport.
    """

    __attrs__ = [  # noqa: RUF012 (HTTPAdapter pickles by this name and type)
        *HTTPAdapter.__attrs__,
        "manager",
        "origins",
        "transport",
        "_boundary",
        "_is_rejected",
        "_header",
        "_scheme",
        "_place",
    ]

    def __init__(
        self,
        manager: TokenManager,
        origins: str | Origin | Iterable[str | Origin],
        *,
        transport: BaseAdapter | None = None,
        is_rejected: Callable[[Response], bool] | Mapping[str, Any] | None = None,
        skip: Callable[[PreparedRequest], bool] | None = None,
        header: str = "Authorization",
        scheme: str = "Bearer",
        cookie: str | None = None,
        query_parameter: str | None = None,
        allow_insecure_http: bool = False,
        **http_adapter_options: Any,
    ) -> None:
        if transport is not None and http_adapter_options:
            raise ValueError(
                f"{', '.join(http_adapter_options)}: give these options to the transport instead"
            )
        check(manager, transport, http_adapter_options)
        if placement.checked(cookie, query_parameter, transport):
            header, scheme = placement.CARRIER, ""
        arguments.header_tokens(header=header)
        if scheme != "":
            arguments.header_tokens(scheme=scheme)
        self.manager = manager
        self._boundary = Boundary(origins, skip, allow_insecure_http)
        self.origins = self._boundary.origins
        self.transport = transport
        self._is_rejected = is_rejected_of(is_rejected)
        self._place = (cookie, query_parameter)
        self._header = header
        self._scheme = scheme
        super().__init__(**http_adapter_options)
        for retries in (self.max_retries, getattr(transport, "max_retries", None)):
            if 401 in (getattr(retries, "status_forcelist", None) or ()):
                raise ValueError(
                    "max_retries has 401 in its status_forcelist: urllib3 would resend the "
                    "rejected token below this adapter; remove 401 from the list"
                )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools. ``requests`` calls this on construction and on unpickling."""
        super().init_poolmanager(*args, **kwargs)
        # Set here because unpickling does not call __init__, and no pickle holds a token.
        self._last_value: tuple[Token | None, HeaderValue] = (None, HeaderValue(""))
        reset_in_child(self)

    def adjust(self, manager: Any) -> None:
        """Make the pools of ``manager`` put the token where it belongs."""
        super().adjust(manager)
        placement.place(manager, *self._place)

    def after_fork_in_child(self) -> None:
        """Use new connections: on a shared one, parent and child read each other's responses.

        The parent's are kept, not closed: threads that do not exist here may hold their locks.
        """
        self._parents = (self.poolmanager, self.proxy_manager, getattr(self, "_parents", None))
        self.poolmanager = unconnected(self.poolmanager)
        self.proxy_manager = {url: unconnected(m) for url, m in self.proxy_manager.items()}

    def mount_on(self, session: Session) -> None:
        """Mount this adapter for each of its origins.

        The prefix has no closing slash, so it also matches ``https://api.example.com:443/``
        and a host with a trailing dot. It is not a security boundary; ``origins`` is.
        A URL with user information (``https://user@api.example.com``) does not match
        and carries no token.
        """
        for origin in self.origins:
            session.mount(str(origin), self)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send ``request`` with a fresh token; if it is rejected, renew it and send again.

        Takes and raises what ``HTTPAdapter.send`` does, and also raises
        ``SessionExpired``, ``RefreshFailed``, ``RefreshUnavailable``,
        ``RefreshTimeout``, ``StoreError`` or ``InsecureTransport``. Each refresh
        blocks for at most the manager's ``wait_timeout``, whatever ``timeout`` is.
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
            self._tell_request(error, request)
            raise
        response = self._send_with(token, request, request, how)
        if self._rejects(response):
            return self._renew_and_replay(token, request, response, how, renewals)
        if self.manager.futility.active:
            self.manager.futility.accepted(place_of(request), token)
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
        path = place_of(request)
        while len(rejected) < MAX_REPLAYS and renewals < MAX_RENEWALS:
            if not self.manager.may_renew(token, path):
                break
            if not rewind(request):
                return self._hand_back(token, request, response)
            keep_body(response)
            try:
                token = self.manager.renew(token)
            except SilentRefreshError as error:
                self._tell_request(error, request, response)
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
        """Send a body that cannot be sent again, with a token that lasts for the upload (P15)."""
        try:
            upload = self.manager.begin_upload()
        except SilentRefreshError as error:
            self._tell_request(error, request)
            raise
        token = upload.token
        try:
            response = self._send_with(token, request, request, how)
        finally:
            self.manager.end_upload(upload)
        if self._rejects(response):
            return self._hand_back(token, request, response)
        if self.manager.futility.active:
            for place in upload_places(request):
                self.manager.futility.accepted(place, token)
        return response

    def _hand_back(self, token: Token, request: PreparedRequest, response: Response) -> Response:
        """Return a rejected response unread and refresh in the background for the next request."""
        logger.warning(
            "a request to %s was rejected and its body cannot be sent again: returning the %d; "
            "the token is refreshed for the next request",
            Origin.of(request.url),
            response.status_code,
        )
        places = upload_places(request)
        if all(self.manager.may_renew(token, place) for place in places):
            self.manager.start_refresh(token)
        for place in places:
            self.manager.futility.rejected(place, token)
        return response

    def _send_with(
        self, token: Token, request: PreparedRequest, callers: PreparedRequest, how: dict[str, Any]
    ) -> Response:
        """Send a copy with the token; the response and any error show ``callers``, without it."""
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
        for earlier in response.history:  # from a transport that resends by itself
            if earlier.request is outgoing:
                earlier.request = callers
        return response

    def _transmit(self, request: PreparedRequest, how: dict[str, Any]) -> Response:
        if self.transport is None:
            return super().send(request, **how)
        response = self.transport.send(request, **how)
        response.connection = self  # so that a hook can resend through it
        return response

    def _value(self, token: Token) -> HeaderValue:
        # No variable holds the unmasked value, since a traceback may show its locals.
        value = HeaderValue(f"{self._scheme} {token.access_token.reveal()}".lstrip(" "))
        mask_in_yaml()
        self._last_value = (token, value)
        return value

    def _rejects(self, response: Response) -> bool:
        try:
            if self._is_rejected is not None:
                rejected = bool(self._is_rejected(response))
            elif response.status_code != 401:
                return False
            else:
                rejected = rejects_token(response.headers.get("WWW-Authenticate"), self._scheme)
        except BaseException:
            response.close()  # otherwise a blocking pool would lose the connection
            raise
        if rejected or response.status_code == 401:
            logger.debug(
                "%s answered %s, %s",
                Origin.of(response.url),
                response.status_code,
                "which rejects the token" if rejected else "which a new token would not help",
            )
        return rejected

    def _tell_request(
        self, error: SilentRefreshError, request: PreparedRequest, response: Response | None = None
    ) -> None:
        """Let ``error`` show the request that failed, and the 401.

        For a session that is over nothing is sent, but an ``except HTTPError`` reads
        ``error.response.status_code``.
        """
        if response is None and isinstance(error, SessionExpired):
            raw = HTTPResponse(
                io.BytesIO(), status=401, reason="Unauthorized", preload_content=False
            )
            response = self.build_response(request, raw)
        error.request = request
        error.response = response
