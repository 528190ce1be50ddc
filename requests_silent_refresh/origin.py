"""``Origin``: the scheme, host and port that may see a token (RFC 6454 section 4).

Two parsers look at every URL: ``urllib.parse`` chooses the connection inside
``requests.adapters.HTTPAdapter``, urllib3's own prepares the URL. URLs that two
parsers read differently have leaked credentials from many clients, so a URL has
an origin here only if it is plainly written *and* both agree; any other is a
stranger's and carries no token.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from urllib.parse import quote, unquote, urlsplit

from requests.exceptions import RequestException
from requests.models import PreparedRequest
from urllib3.util import parse_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNIX = "http+unix"

# What stands between "//" and the first of "/?#" is the authority in every parser,
# as long as it holds no backslash, blank, control character or anything beyond
# ASCII. One "@" at most: more are legal for our two parsers, not for their kin.
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

# A name whose last label old resolvers take for a number: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


@dataclasses.dataclass(frozen=True)
class Origin:
    """A scheme, a host and a port. Immutable, hashable, and equal by value.

    Made by :meth:`parse` or :meth:`of`, which normalise: lower case, IDNA's
    ASCII form, no trailing dot, IPv6 in brackets in its shortest form, and the
    scheme's port where none is given. ``http+unix`` (a Unix domain socket, for
    transports that speak it) has the percent-encoded path of the socket for a
    host, and port 0.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read an origin as a person writes it: ``"https://api.example.com"``.

        One closing slash is tolerated; a name beyond ASCII becomes what
        ``requests`` makes of it. Raises ``ValueError``, which says what to give
        instead, for anything else than scheme, host and port. The message shows
        no password, should one be there.
        """
        if "@" in text:
            raise ValueError("an origin holds no user and no password: give scheme and host only")
        match = re.fullmatch(r"([^:/?#]*)://([^\\/?#]+)(.*)", text, re.DOTALL)
        if match is None:
            raise ValueError(f"{text!r} is no origin: give one like 'https://api.example.com'")
        scheme, authority, rest = match[1].lower(), match[2], match[3]
        if scheme not in (*_DEFAULT_PORTS, _UNIX):
            raise ValueError(f"{text!r}: the scheme of an origin is https, http or http+unix")
        if "*" in authority:
            raise ValueError(f"{text!r}: there are no wildcards, list every origin by its name")
        if rest not in ("", "/"):
            raise ValueError(
                f"{text!r}: an origin ends after host and port, give '{scheme}://{authority}'"
            )
        origin = cls.of(text if text.isascii() else _prepared(text))
        if origin is None:
            raise ValueError(
                f"{text!r} has no host and port that every parser reads alike: "
                "give one like 'https://api.example.com:8443' or 'http://127.0.0.1:8080'"
            )
        return origin

    @classmethod
    def of(cls, url: str | None) -> Origin | None:
        """Return the origin that ``requests`` will connect to for a prepared ``url``.

        ``None`` for what is not certainly read: a backslash, blank, control
        character or non-ASCII character before the path, several ``@``, percent
        signs in the host, a zone id (``requests`` cannot connect to one), an
        IPv4 address in any form but four decimal numbers, port 0, another
        scheme, and wherever ``urllib.parse`` and urllib3 disagree. User and
        password are dropped. Never raises, never blocks.
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
        """Whether nobody between here and the host can read along, proxy or not.

        True for https, and for ``http+unix``, which never leaves the machine.
        """
        return self.scheme in ("https", _UNIX)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: a connection *without a proxy* stays on it.

        True for ``localhost`` and the names under it (RFC 6761 section 6.3),
        127.0.0.0/8, ``[::1]`` and Unix domain sockets. An IPv6 address that
        maps an IPv4 one is not, since Python's versions disagree about it.
        """
        if self.scheme == _UNIX or self.host == "[::1]":
            return True
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        # Only four decimal numbers get into an origin, so a number in front is one of them.
        return self.host.startswith("127.") and _NUMBER.fullmatch(self.host) is not None

    @property
    def prefix(self) -> str:
        """What a prepared URL of this origin normally starts with: ``https://api.example.com/``.

        ``url.startswith(prefix)`` proves that ``url`` is of this origin, for
        every parser: the prefix holds the whole authority and the slash that
        ends it, with no ``@`` before that slash, so whatever follows (``@``,
        backslash, line break) belongs to the path. The reverse does not hold:
        an explicit ``:443``, capitals or user information need :meth:`of`.
        """
        return f"{self}/"

    def __str__(self) -> str:
        """Return the origin as a URL without a path, and without the scheme's own port."""
        if self.port in (0, _DEFAULT_PORTS.get(self.scheme)):
            return f"{self.scheme}://{self.host}"
        return f"{self.scheme}://{self.host}:{self.port}"


def _canonical_host(host: str) -> str | None:
    """Return the one spelling of a lower-case host; ``None`` where it has none."""
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
    """Return the (host, port) pairs that the two parsers see; empty where one objects."""
    try:
        pool, prepared = urlsplit(url), parse_url(url)
        name, port = pool.hostname or "", pool.port
    except ValueError:  # urllib3's LocationParseError is one
        return set()
    return {
        (f"[{name}]" if ":" in name else name, port or default_port),
        (prepared.host or "", prepared.port or default_port),
    }


def _prepared(text: str) -> str | None:
    """Return the URL that ``requests`` prepares, so that IDNA is applied by its rules."""
    if text != text.strip():
        return None  # prepare_url would strip it
    request = PreparedRequest()
    try:
        request.prepare_url(text, None)
    except (RequestException, ValueError):
        return None
    return request.url
