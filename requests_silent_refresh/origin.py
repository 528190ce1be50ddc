"""``Origin``: a scheme, host and port that may receive a token (RFC 6454 section 4).

Two parsers read each URL: urllib3's prepares it, and ``urllib.parse`` chooses the connection
inside ``requests.adapters.HTTPAdapter``. URLs that two parsers read differently have leaked
credentials from many clients. So a URL has an origin here only if its syntax is plain *and*
both parsers agree. Any other URL is treated as foreign and carries no token.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from urllib.parse import quote, unquote, urlsplit

from requests.exceptions import RequestException
from requests.models import PreparedRequest
from urllib3.util import parse_url

from . import arguments

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNIX = "http+unix"

# Every parser takes the text between "//" and the first of "/?#" as the authority, if it
# holds no backslash, blank, control character or non-ASCII character. At most one "@":
# the two parsers allow more, but others do not.
_HTTP = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:[^@/?#\\\[\]\x00-\x20\x7f-\U0010ffff]*@)?"
    r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{0,9}))?(?=[/?#]|\Z)",
    re.ASCII | re.IGNORECASE,
)
_SOCKET = re.compile(
    r"http\+unix://(?P<path>%2f(?:[a-z0-9._~-]|%[0-9a-f]{2})+)(?=[/?#]|\Z)",
    re.ASCII | re.IGNORECASE,
)

# A name whose last label old resolvers read as a number: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


@dataclasses.dataclass(frozen=True)
class Origin:
    """A scheme, a host and a port. Immutable, hashable and compared by value.

    >>> Origin.parse("https://API.example.com:443/")
    Origin(scheme='https', host='api.example.com', port=443)
    >>> Origin.of("https://api.example.com/me") == Origin.parse("https://api.example.com")
    True

    Create one with :meth:`parse` or :meth:`of`, which normalise it: lower case, IDNA's
    ASCII form, no trailing dot, IPv6 in brackets in its shortest form, and the scheme's
    default port if none is given. For ``http+unix`` (a Unix domain socket, for transports
    that support it), the host is the percent-encoded path of the socket and the port 0.
    The constructor normalises nothing; it raises ``TypeError`` for a wrong kind.
    """

    scheme: str
    host: str
    port: int

    def __post_init__(self) -> None:
        arguments.instances(str, "a str", scheme=self.scheme, host=self.host)
        arguments.instances(int, "an int", port=self.port)

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read an origin from configuration: ``"https://api.example.com"``.

        One closing slash is allowed. A non-ASCII name is converted as ``requests`` does
        it. Raises ``ValueError``, which says what to give instead, for anything but a
        scheme, host and port, and ``TypeError`` if ``text`` is not a ``str``. If the text holds
        a password, the message does not show it.
        """
        if not isinstance(text, str):
            raise arguments.wrong_kind("an origin", text, "a str like 'https://api.example.com'")
        if "@" in text:
            raise ValueError("an origin has no user or password: give scheme and host only")
        match = re.fullmatch(r"([^:/?#]*)://([^\\/?#]+)(.*)", text, re.DOTALL)
        if match is None:
            raise ValueError(f"{text!r} is not an origin: give one like 'https://api.example.com'")
        scheme, authority, rest = match[1].lower(), match[2], match[3]
        if scheme not in (*_DEFAULT_PORTS, _UNIX):
            raise ValueError(f"{text!r}: the scheme of an origin must be https, http or http+unix")
        if "*" in authority:
            raise ValueError(f"{text!r}: wildcards are not supported, list every origin by name")
        if rest not in ("", "/"):
            raise ValueError(
                f"{text!r}: an origin ends after the host and port, give '{scheme}://{authority}'"
            )
        origin = cls.of(text if text.isascii() else _prepared(text))
        if origin is None:
            raise ValueError(
                f"{text!r} has no host and port that all parsers read the same way: "
                "give one like 'https://api.example.com:8443' or 'http://127.0.0.1:8080'"
            )
        return origin

    @classmethod
    def of(cls, url: str | None) -> Origin | None:
        """Return the origin that ``requests`` will connect to for a prepared ``url``.

        Returns ``None`` if that is not certain: for a backslash, blank, control character
        or non-ASCII character before the path, more than one ``@``, a percent sign in the
        host, a zone id (``requests`` cannot connect to one), an IPv4 address in any form
        but four decimal numbers, port 0, another scheme, and if ``urllib.parse`` and
        urllib3 disagree. Drops the user and password. Never raises or blocks.
        """
        if not isinstance(url, str):
            return None
        socket = _SOCKET.match(url)
        if socket is not None:
            return cls(_UNIX, quote(unquote(socket["path"]), safe=""), 0)
        match = _HTTP.match(url)
        if match is None:
            return None
        scheme, name = match["scheme"].lower(), match["host"].lower()
        port = int(match["port"] or _DEFAULT_PORTS[scheme])
        host = _canonical_host(name)
        if host is None or _seen_by_requests(url, _DEFAULT_PORTS[scheme]) != {(name, port)}:
            return None
        return cls(scheme, host, port)

    @property
    def is_secure(self) -> bool:
        """Whether nothing between here and the host can read the traffic, not even a proxy.

        True for https, and for ``http+unix``, which never leaves the machine.
        """
        return self.scheme in ("https", _UNIX)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: a connection *without a proxy* stays on it.

        True for ``localhost``, 127.0.0.0/8, ``[::1]`` and Unix domain sockets. False for the
        names under ``localhost``, which many resolvers look up in the DNS although RFC 6761
        section 6.3 forbids it, and for an IPv4-mapped IPv6 address, because Python versions
        disagree about those.
        """
        if self.scheme == _UNIX or self.host in ("localhost", "[::1]"):
            return True
        # An origin's IPv4 address has four decimal numbers, so this one is in 127.0.0.0/8.
        return self.host.startswith("127.") and _NUMBER.fullmatch(self.host) is not None

    @property
    def prefix(self) -> str:
        """The usual start of a prepared URL of this origin: ``https://api.example.com/``.

        ``url.startswith(prefix)`` proves that ``url`` has this origin in every parser: the
        prefix holds the whole authority and the slash that ends it, with no ``@`` before,
        so anything after it (``@``, backslash, line break) is part of the path. The
        converse is not true: URLs with an explicit ``:443``, capitals or user information
        need :meth:`of`.
        """
        return f"{self}/"

    def __str__(self) -> str:
        """Return the origin as a URL without a path, and without the scheme's default port."""
        if self.port in (0, _DEFAULT_PORTS.get(self.scheme)):
            return f"{self.scheme}://{self.host}"
        return f"{self.scheme}://{self.host}:{self.port}"


def _canonical_host(host: str) -> str | None:
    """Return the normal form of a lower-case host; ``None`` if it has none."""
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        if _NUMBER.fullmatch(host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        return None
    host = host.removesuffix(".")
    return host if all(host.split(".")) else None


def _seen_by_requests(url: str, default_port: int) -> set[tuple[str, int]]:
    """Return the (host, port) pairs that the two parsers read; empty if one of them raises."""
    try:
        pool, prepared = urlsplit(url), parse_url(url)
        name, port = pool.hostname or "", pool.port
    except ValueError:  # includes urllib3's LocationParseError
        return set()
    return {
        (f"[{name}]" if ":" in name else name, port or default_port),
        (prepared.host or "", prepared.port or default_port),
    }


def _prepared(text: str) -> str | None:
    """Return the URL as ``requests`` prepares it, so that its IDNA rules apply."""
    if text != text.strip():
        return None  # prepare_url would strip it
    request = PreparedRequest()
    try:
        request.prepare_url(text, None)
    except (RequestException, ValueError):
        return None
    return request.url
