"""The outcome of one exchange with the token endpoint: an answer, or the reason for none.

Both are plain values. They hold no connection, response or frame, because a response that is
kept alive also keeps its pool and the pool's sockets alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.message
import email.utils
import http.client
import json
import ssl
import zlib
from collections.abc import Iterator, Mapping
from datetime import timezone
from functools import cached_property
from typing import Any, Literal, TypeAlias

import requests
import urllib3.exceptions

from .. import payloads
from ..errors import cleaned
from ..redaction import strip

# Answers are a few kilobytes; a megabyte is enough for the largest id_token.
SIZE_LIMIT = 1024 * 1024


@dataclasses.dataclass(frozen=True, repr=False)
class EndpointAnswer:
    """The endpoint's answer. Immutable. It contains tokens, so its repr omits the body.

    ``headers`` is a case-insensitive mapping. ``body`` is decoded; it is empty if the server
    sent more than 1 MiB, used an unknown content encoding, or closed the connection early.
    ``received_at`` is the Unix time at which the headers arrived. ``cookies`` are those that the
    answer sets.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    cookies: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"EndpointAnswer(status={self.status}, {len(self.body)} bytes)"

    @cached_property
    def payload(self) -> dict[str, Any] | None:
        """The body as a dictionary, parsed from JSON or a form; ``None`` if it is neither.

        The content type matters little, because many servers send the wrong one: see
        :func:`~.payloads.parse`. Text is read as UTF-8, UTF-16 or UTF-32, then in the declared
        charset, then as ISO 8859-1, which fits any bytes.
        """
        label = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_form = label == "application/x-www-form-urlencoded"
        return payloads.parse(self._texts(), is_form=is_form)

    def _texts(self) -> Iterator[str]:
        declared = email.message.Message()
        declared["Content-Type"] = self.headers.get("Content-Type", "")
        charset = declared.get_content_charset("latin-1")
        for encoding in (json.detect_encoding(self.body), charset, "latin-1"):
            with contextlib.suppress(ValueError, LookupError):
                yield self.body.decode(encoding)

    @property
    def server_time(self) -> float:
        """The Unix time of the answer by the server's clock, or by ours without a ``Date``."""
        moment = http_date(self.headers.get("Date"))
        # A Date has whole seconds. If the two clocks agree to within that, ours is more exact.
        if moment is None or abs(moment - self.received_at) < 2:
            return self.received_at
        return moment


@dataclasses.dataclass(frozen=True)
class NoAnswer:
    """The reason why there is no answer.

    ``kind``
        ``"set-up"``: nothing could be sent because an argument is wrong (a proxy's URL, a CA
        bundle that does not exist). ``"unreachable"``: nothing was sent. ``"timeout"``: the
        deadline passed. ``"cut off"``: the connection was closed after sending, so the server
        may or may not have processed the request. ``"garbled"``: the answer is not HTTP.
    ``cause``
        The operating system's error, without its own causes and frames.
    ``detail``
        A description that is safe to show in messages.
    """

    kind: Literal["set-up", "unreachable", "timeout", "cut off", "garbled"]
    cause: OSError | None = None
    detail: str = ""


Outcome: TypeAlias = EndpointAnswer | NoAnswer


def http_date(text: str | None) -> float | None:
    """Parse an HTTP date (RFC 9110 section 5.6.7) to Unix time; ``None`` if it is invalid."""
    try:
        moment = email.utils.parsedate_to_datetime(text or "")
        if moment.tzinfo is None:  # "-0000", which also means UTC
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def decode(body: bytes, encoding: str) -> bytes:
    """Undo a content encoding, up to the size limit; return ``b""`` if that is impossible.

    ``requests`` would decompress the whole body at once, without a limit.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return b""
    decompressor = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # detects gzip or zlib
    try:
        decoded = decompressor.decompress(body, SIZE_LIMIT)
    except zlib.error:
        return b""
    return decoded if decompressor.eof else b""


_CLOSED = (
    ConnectionError,  # the builtin: reset, aborted, broken pipe, http.client's RemoteDisconnected
    http.client.IncompleteRead,
    urllib3.exceptions.IncompleteRead,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
# Without urllib3's TimeoutError, which is also a base of the error for a refused connection.
_TIMEOUTS = (TimeoutError, urllib3.exceptions.ReadTimeoutError, requests.Timeout)


def no_answer(error: Exception, sent: bool) -> NoAnswer:
    """Describe an exchange that failed with ``error``; ``sent`` says if the request was sent.

    Only the operating system's part of the error is kept. The rest holds connections and parts
    of the answer, and its message may contain a header's value or a proxy's password.
    """
    links = list(_chain(error))
    cause = next((link for link in links if _is_system_error(link)), None)
    detail = type(error).__name__
    if cause is not None:
        # Cleaned, because a proxy's words may be in it.
        detail = cleaned(f"{type(cause).__name__}: {cause}") or ""
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


def _is_system_error(link: BaseException) -> bool:
    return isinstance(link, OSError) and not isinstance(link, requests.RequestException)


def _chain(error: BaseException) -> Iterator[Any]:
    """Yield ``error`` and everything that caused it, including urllib3's ``reason``."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        link = todo.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__, getattr(link, "reason", None)]
