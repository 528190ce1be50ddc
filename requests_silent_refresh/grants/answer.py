"""What came of one exchange with the token endpoint: an answer, or none.

Both are values. They hold no connection, no response and no frame, because a
kept response keeps its pool, and that its sockets.
"""

from __future__ import annotations

import dataclasses
import email.utils
import http.client
import json
import ssl
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from datetime import timezone
from functools import cached_property
from typing import Any, Literal, TypeAlias

import requests
import urllib3.exceptions

from ..redaction import strip

# Answers are some kilobytes; a megabyte holds the fattest id_token.
SIZE_LIMIT = 1024 * 1024


@dataclasses.dataclass(frozen=True, repr=False)
class EndpointAnswer:
    """What the endpoint answered. Immutable; holds tokens, so its repr shows no body.

    ``headers`` is a case-insensitive mapping. ``body`` is decoded, and empty
    where the server sent more than :data:`SIZE_LIMIT` bytes, or an encoding that
    nobody asked for, or broke off. ``received_at`` is the Unix time at which its
    head had come.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float

    def __repr__(self) -> str:
        return f"EndpointAnswer(status={self.status}, {len(self.body)} bytes)"

    @cached_property
    def payload(self) -> dict[str, Any] | None:
        """The body as an object: JSON, or a form where it is labelled as one; else ``None``.

        JSON is recognised under any label, since many servers send the wrong one.
        """
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return self._form()
        return value if isinstance(value, dict) else None

    def _form(self) -> dict[str, Any] | None:
        label = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if label != "application/x-www-form-urlencoded":
            return None
        try:
            pairs = urllib.parse.parse_qsl(self.body.decode(), max_num_fields=100)
        except ValueError:
            return None
        return dict(pairs) or None

    @property
    def server_time(self) -> float:
        """The Unix time by the server's clock when it answered; by ours if it did not say."""
        moment = http_date(self.headers.get("Date"))
        # A Date is in whole seconds: below that ours is the better of two clocks that agree.
        if moment is None or abs(moment - self.received_at) < 2:
            return self.received_at
        return moment


@dataclasses.dataclass(frozen=True)
class NoAnswer:
    """Why there is no answer.

    ``kind``
        ``"set-up"``: nothing could be sent because an argument is wrong (a
        proxy's URL, a CA bundle that does not exist). ``"unreachable"``: nothing
        was sent. ``"timeout"``: the deadline passed. ``"cut off"``: the
        connection was closed after sending, so the server may or may not have
        done what was asked. ``"garbled"``: what came is not HTTP.
    ``cause``
        The operating system's error, detached from everything that led to it.
    ``detail``
        What a message may say of it.
    """

    kind: Literal["set-up", "unreachable", "timeout", "cut off", "garbled"]
    cause: OSError | None = None
    detail: str = ""


Outcome: TypeAlias = EndpointAnswer | NoAnswer


def http_date(text: str | None) -> float | None:
    """Read an HTTP date (RFC 9110 section 5.6.7) as Unix time; ``None`` where it is none."""
    try:
        moment = email.utils.parsedate_to_datetime(text or "")
        if moment.tzinfo is None:  # "-0000", which is UTC all the same
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def decode(body: bytes, encoding: str) -> bytes:
    """Undo a content encoding, up to the size limit; empty where that is impossible.

    ``requests`` would decompress whatever comes, in one piece.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return b""
    decompressor = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip or zlib, by its header
    try:
        decoded = decompressor.decompress(body, SIZE_LIMIT)
    except zlib.error:
        return b""
    return decoded if decompressor.eof else b""


_CLOSED = (
    ConnectionError,  # the system's: reset, aborted, broken pipe, and http.client's disconnect
    http.client.IncompleteRead,
    urllib3.exceptions.IncompleteRead,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
# Not urllib3's TimeoutError: a refused connection is one there.
_TIMEOUTS = (TimeoutError, urllib3.exceptions.ReadTimeoutError, requests.Timeout)


def no_answer(error: Exception, sent: bool) -> NoAnswer:
    """Say what became of an exchange that failed with ``error``.

    Of the error itself only the operating system's part is kept: the rest holds
    connections, parts of what was received, and now and then a header's value or
    a proxy's password in its message.
    """
    links = list(_chain(error))
    cause = next((link for link in links if _is_of_system(link)), None)
    detail = type(error).__name__
    if cause is not None:
        detail = f"{type(cause).__name__}: {cause}"
        cause.__cause__ = cause.__context__ = None
        strip(cause)
    if any(isinstance(link, _TIMEOUTS) for link in links):
        return NoAnswer("timeout", cause, detail)
    if sent:
        closed = any(isinstance(link, _CLOSED) for link in links)
        return NoAnswer("cut off" if closed else "garbled", cause, detail)
    if isinstance(error, ValueError) or not isinstance(error, requests.RequestException):
        return NoAnswer("set-up", cause, detail)
    return NoAnswer("unreachable", cause, detail)


def _is_of_system(link: BaseException) -> bool:
    return isinstance(link, OSError) and not isinstance(link, requests.RequestException)


def _chain(error: BaseException) -> Iterator[Any]:
    """Yield ``error`` and all that led to it, also where urllib3 keeps it as ``reason``."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        link = todo.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__, getattr(link, "reason", None)]
