"""What it takes to send a request again: the 401's body, the request's body, the cookies."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Iterator

import urllib3
from requests import PreparedRequest, Response
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.utils import rewind_body

DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0
_PIECE = 16 * 1024


def is_rewindable(request: PreparedRequest) -> bool:
    """Say whether the request's body can be sent a second time.

    ``requests`` notes where a file stood when it prepared the request; a
    generator, a pipe or an encoder that was consumed has no such place.
    """
    body = request.body
    return (
        body is None
        or isinstance(body, (bytes, bytearray, str))
        or (isinstance(request._body_position, int) and hasattr(body, "seek"))
    )


def rewind(request: PreparedRequest) -> None:
    """Put a file body back to where it stood; raises ``UnrewindableBodyError`` if it refuses."""
    if not isinstance(request.body, (bytes, bytearray, str, type(None))):
        rewind_body(request)


def shallow_copy(request: PreparedRequest) -> PreparedRequest:
    """Copy the request but for what it refers to; its headers become a dictionary of their own.

    ``PreparedRequest.copy`` copies the cookie jar too, cookie by cookie, which
    nobody needs who only adds a header.
    """
    twin = type(request).__new__(type(request))
    twin.__dict__.update(request.__dict__)
    twin.headers = request.headers.copy()
    return twin


def with_cookies_of(request: PreparedRequest, rejected: Response) -> PreparedRequest:
    """Return the request to send again: with the cookies that the 401 set, if it set any.

    A ``Cookie`` header that the caller wrote survives; one that was made from
    the session's jar is made anew.
    """
    jar = request._cookies
    if jar is None or "Set-Cookie" not in rejected.headers:
        return request
    again = shallow_copy(request)
    written = again.headers.pop("Cookie", None)
    if written is not None and written != get_cookie_header(jar, again):
        return request
    again._cookies = RequestsCookieJar()
    again._cookies.update(jar)
    extract_cookies_to_jar(again._cookies, request, rejected.raw)
    cookies = get_cookie_header(again._cookies, again)
    if cookies is not None:
        again.headers["Cookie"] = cookies
    return again


def keep_body(rejected: Response) -> None:
    """Take the 401's body off the connection, so that waiting holds none of the pool's.

    At most 64 KiB and one second; what is longer or slower is cut off and its
    connection closed. What was read stays readable in ``rejected`` as before:
    ``content``, ``iter_content`` and ``raw`` give it, undecoded in ``raw``. A
    response whose body was read already (by an ``is_rejected`` of the
    application's, by another transport) is left as it is.
    """
    raw = rejected.raw
    if rejected._content_consumed:
        return
    if not isinstance(raw, urllib3.HTTPResponse):
        with contextlib.suppress(Exception):
            _ = rejected.content  # another transport's kind of body: it answers for its size
        return
    body, whole = _drain(raw)
    if whole:
        raw.release_conn()
    else:
        rejected.close()
    rejected.raw = urllib3.HTTPResponse(
        body=io.BytesIO(body),
        headers=raw.headers,
        status=raw.status,
        version=raw.version,
        reason=raw.reason,
        preload_content=False,
        decode_content=raw.decode_content,
        original_response=raw._original_response,  # where requests looks for cookies
        enforce_content_length=False,  # it may have been cut off
    )


def _drain(raw: urllib3.HTTPResponse) -> tuple[bytes, bool]:
    """Read the body within bounds; say whether that is all of it."""
    body = bytearray()
    read = getattr(raw, "read1", raw.read)  # since urllib3 2.1; what a slow server sent so far
    try:
        with _cut_off_after(raw, DRAIN_SECONDS) as cut:
            while len(body) <= DRAIN_BYTES:
                piece = read(_PIECE, decode_content=False)
                if not piece:
                    return bytes(body), not cut.is_set()
                body += piece
    except (urllib3.exceptions.HTTPError, OSError):
        pass
    return bytes(body[:DRAIN_BYTES]), False


@contextlib.contextmanager
def _cut_off_after(raw: urllib3.HTTPResponse, seconds: float) -> Iterator[threading.Event]:
    """Shut the connection down after ``seconds``, which ends any read of it.

    A timeout of the socket would be one for each ``recv``, and a single read of
    a chunked body may take thousands. The watch goes through a descriptor of its
    own, because the socket's may be closed, and given to somebody else, meanwhile.
    """
    cut = threading.Event()
    try:
        connection = socket.socket(fileno=os.dup(raw.fileno()))
    except (OSError, ValueError, AttributeError):
        yield cut  # no socket behind it, or closed already: nothing can block
        return

    def shut_down() -> None:
        cut.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(seconds, shut_down)
    watch.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread can be started: the reads' timeouts remain
        watch.start()
    try:
        yield cut
    finally:
        watch.cancel()
        if watch.ident is not None:
            watch.join()  # it must not use the descriptor after this
        connection.close()
