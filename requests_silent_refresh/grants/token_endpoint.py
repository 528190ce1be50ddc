"""``TokenEndpoint``: the URL where tokens are exchanged, and its TLS and proxy settings."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.utils import default_user_agent, select_proxy

from .. import arguments
from ..errors import InsecureTransport
from ..origin import Origin
from ..redaction import HeaderValue, hidden_mapping
from .answer import Outcome
from .bounded_post import Exchange

_TRANSPORT = "a transport adapter, such as HTTPAdapter()"


class TokenEndpoint:
    """The URL where tokens are exchanged, and how to reach it. Immutable and thread-safe.

    ``verify``, ``cert`` and ``proxies`` are those of ``requests``, for this endpoint only.
    ``None`` uses the environment (``REQUESTS_CA_BUNDLE``, ``HTTPS_PROXY``, ``NO_PROXY``). A
    mapping of proxies replaces the environment's; an empty one means no proxy. ``verify`` may
    also be an ``SSLContext``, ``transport`` is another adapter to send through, and
    ``allow_insecure_http`` admits plain http to other machines. ``clock`` returns Unix time.

    Raises ``TypeError`` or ``ValueError`` for an invalid URL or setting, and
    ``InsecureTransport`` for a URL that is neither https nor loopback (RFC 6749 section 3.2).
    Their messages name the argument; that of the URL is ``name``.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "token_endpoint",
        verify: bool | str | ssl.SSLContext | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        transport: BaseAdapter | None = None,
        allow_insecure_http: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        url, proxies = hidden_url(url), hidden_mapping(proxies)
        arguments.flags(allow_insecure_http=allow_insecure_http)
        self._origin = _origin(name, url, allow_insecure_http)
        self._allow_insecure_http = allow_insecure_http
        self.url = str(url)
        arguments.functions(clock=clock)
        arguments.able(("send", "close"), _TRANSPORT, **arguments.given(transport=transport))
        self._given = checked_network(verify, cert, proxies)
        self._transport = transport
        self._clock = clock

    def __str__(self) -> str:
        """Return the URL without its query, which may contain a key."""
        return self.url.partition("?")[0]

    @property
    def identity(self) -> str:
        """The URL in its usual spelling, without its query: the server that tokens belong to."""
        path = urlsplit(self.url).path.rstrip("/")
        return f"{self._origin}{path}"

    @property
    def holds_secret(self) -> bool:
        """Whether the URL of a proxy may contain a password."""
        return any("@" in str(proxy) for proxy in (self._given["proxies"] or {}).values())

    def post(
        self,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        *,
        method: str = "POST",
        query: str = "",
    ) -> Outcome:
        """Send ``body`` once and return the outcome.

        Follows no redirect, does not retry, and uses neither netrc nor cookies; the connection
        is closed afterwards. Blocks at most until ``deadline`` (by ``time.monotonic``), and
        nothing is sent after it. :class:`~.bounded_post.Exchange` describes how, and what
        applies if no thread can be started. ``query`` is added to the URL where no log shows it.

        Raises ``InsecureTransport`` if a plain http loopback endpoint would be reached through
        a proxy. Thread-safe.
        """
        request = requests.Request(method, self.url, data=body, headers=_headers(headers))
        return self._send(request, deadline, query)

    def get(self, deadline: float) -> Outcome:
        """Fetch the URL like :meth:`post`, without a secret: for metadata or the server's clock."""
        return self._send(requests.Request("GET", self.url, headers=_headers({})), deadline)

    def _send(self, request: requests.Request, deadline: float, query: str = "") -> Outcome:
        exchange = Exchange(
            request,
            self._settings(),
            deadline,
            self._clock,
            query=query,
            transport=self._transport,
        )
        return exchange.result()

    def _settings(self) -> dict[str, Any]:
        with requests.Session() as session:
            environment = session.merge_environment_settings(self.url, {}, True, None, None)
        settings: dict[str, Any] = {**environment}
        settings.update((name, value) for name, value in self._given.items() if value is not None)
        plain = not (self._origin.is_secure or self._allow_insecure_http)
        if plain and select_proxy(self.url, settings["proxies"]):
            raise InsecureTransport(
                f"{self} uses plain http, which is safe only within this machine, but a proxy "
                "applies to it: pass proxies={} for this endpoint, or list its host in NO_PROXY"
            )
        return settings


def checked_network(verify: Any = None, cert: Any = None, proxies: Any = None) -> dict[str, Any]:
    """Return the settings as ``requests`` takes them.

    Raises ``TypeError`` or ``ValueError`` for a wrong one, because ``requests`` would fail in
    the middle of an exchange.
    """
    if verify is not None and not isinstance(verify, (bool, ssl.SSLContext)):
        expected = "True, False, the path of CA certificates, or an SSLContext"
        verify = arguments.path("verify", verify, expected)
    if isinstance(cert, (tuple, list)):
        if len(cert) != 2:
            raise ValueError("cert must be a path, or the two paths of a certificate and its key")
        cert = tuple(None if file is None else arguments.path("cert", file) for file in cert)
    elif cert is not None:
        cert = arguments.path("cert", cert)
    if proxies is not None:
        proxies = arguments.mapping("proxies", proxies)
        for scheme, proxy in proxies.items():
            arguments.instances((str, type(None)), "a URL", **{f"proxies[{scheme!r}]": proxy})
    return {"verify": verify, "cert": cert, "proxies": proxies}


def hidden_url(url: Any) -> Any:
    """Return a URL, which may contain a password or a key, with a masked ``repr``."""
    return HeaderValue(url) if isinstance(url, str) else url


def _origin(name: str, url: object, allow_insecure_http: bool) -> Origin:
    hint = f"{name} must be a URL such as 'https://auth.example.com/oauth2/token'"
    if not isinstance(url, str):
        raise arguments.wrong_kind(name, url, hint.partition(" must be ")[2])
    if "@" in url.partition("?")[0]:
        raise ValueError(f"{hint}, without user and password: pass client_id and client_secret")
    shown, origin = url.partition("?")[0], Origin.of(_prepared(url))
    if origin is None or origin.scheme not in ("http", "https") or re.search(r"\s", url):
        raise ValueError(f"{hint}, not {shown!r}")
    if "#" in url:
        raise ValueError(f"{hint}, without the fragment in {shown!r} (RFC 6749 section 3.2)")
    if not (origin.is_secure or origin.is_loopback or allow_insecure_http):
        raise InsecureTransport(
            f"{name} is at {origin}, where anyone on the network path can read the refresh token: "
            "use https (plain http is allowed only for loopback addresses, or with "
            "allow_insecure_http=True for an endpoint inside a cluster)"
        )
    return origin


def _prepared(url: str) -> str | None:
    try:
        return requests.Request("POST", url).prepare().url
    except (requests.RequestException, ValueError):
        return None


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # a compressed answer is still decoded, up to the limit
        "Connection": "close",
        "User-Agent": default_user_agent("python-requests-silent-refresh"),
        **headers,
    }
