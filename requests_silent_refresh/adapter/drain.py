"""Reads a rejected response's body off its connection, within limits of size and time."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import threading
import time
from collections import deque

import urllib3
from requests import Response

from ..system.forking import reset_in_child
from ..system.threads import start_daemon

DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0
_PIECE = 16 * 1024

# What beginning and reading raise: cut off, invalid HTTP, no descriptor or thread left. Nothing
# else is caught, because it was raised by a signal handler, for the caller.
_BROKEN = (OSError, http.client.HTTPException, ValueError, RuntimeError)


def keep_body(rejected: Response) -> None:
    """Read the 401's body, so that waiting for a refresh holds no connection of the pool.

    Reads at most 64 KiB (before decoding) and blocks for at most one second; a longer
    or slower body is cut off and its connection closed. What was read stays available
    in ``rejected``: from ``content`` and ``iter_content``, and undecoded from ``raw``.
    A response whose body was already read (by the application's ``is_rejected``, by
    another transport) is left as it is.
    """
    raw = rejected.raw
    # Private, but requests itself goes by it; `.content` would read the whole body.
    if rejected._content_consumed:
        return
    if not isinstance(raw, urllib3.HTTPResponse):
        with contextlib.suppress(Exception):
            _ = rejected.content  # another transport's type of body, which limits its own size
        return
    body, whole = b"", False
    try:
        body, whole = _drain(raw)
    finally:  # also on KeyboardInterrupt, or a blocking pool would lose the connection
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
        original_response=raw._original_response,  # requests reads the cookies from it
        enforce_content_length=False,  # the body may have been cut off
    )


def _drain(raw: urllib3.HTTPResponse) -> tuple[bytes, bool]:
    """Read the body within the limits; return it, and whether it is complete."""
    # Reads below urllib3's response, for two reasons. Its `read1` is newer than the oldest
    # supported release, and it returns the connection to the pool with the last byte, so
    # the watch might cut off the next request.
    source = raw._original_response
    if type(source) is not http.client.HTTPResponse:  # in memory, from a stub or a recorder
        with contextlib.suppress(Exception):
            kept = raw.read(DRAIN_BYTES + 1, decode_content=False)
            return kept[:DRAIN_BYTES], len(kept) <= DRAIN_BYTES
        return b"", False
    if source.isclosed():
        return b"", True
    drain, body, ended = _Drain(), bytearray(), False
    try:
        _watch.begin(drain, source.fileno())
        while not ended and len(body) <= DRAIN_BYTES:
            piece = source.read1(_PIECE)
            body += piece
            ended = not piece
    except _BROKEN:
        pass  # the connection cannot be reused
    finally:
        in_time = _watch.end(drain)
    if ended and in_time:
        source.close()  # not the connection; http.client needs it to send the next request
    return bytes(body[:DRAIN_BYTES]), ended and in_time


class _Drain:
    """One body being drained. Its fields are guarded by the watch's lock.

    ``descriptors`` holds a duplicate of the response's own, which may be closed, and its
    number reused, while the watch holds it. It becomes a socket object only when it is
    shut down, because creating one may change whether the connection blocks
    (``socket.setdefaulttimeout``).
    """

    def __init__(self) -> None:
        self.due = time.monotonic() + DRAIN_SECONDS
        self.descriptors: list[int] = []
        self.in_time = True

    # Each of these is one call of code in C: a signal handler runs between two bytecodes, and an
    # exception that it raises there would lose a descriptor that no list holds.

    def open(self, descriptor: int) -> None:
        self.descriptors.extend(map(os.dup, (descriptor,)))

    def close(self) -> None:
        if self.descriptors:
            next(map(os.close, iter(self.descriptors.pop, None)))


class _Watch:
    """Shuts down the connections of slow drains, which ends any read of them (P8).

    A socket timeout is not enough: it applies to each ``recv``, and one read of a
    chunked body may take thousands. One thread serves all drains of the process. It
    ends when it wakes and finds none.

    All drains have the same time limit, so the oldest is always due first, and the
    thread sleeps until then. No drain that begins meanwhile is due earlier, so nothing
    needs to wake it. A drain that has ended stays in the queue until it is due, without
    its descriptor. The lock guards all fields. Connections are shut down with it held,
    which does not block and never hits a drain that has ended.

    An exception of a signal handler may leave :meth:`begin` and :meth:`end` anywhere. A
    drain is then over at its time limit, when the thread closes its descriptor. At worst a
    second thread serves the same queue for a while.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start again, without the drains and the thread, which are the parent's."""
        self._lock = threading.RLock()
        self._drains: deque[_Drain] = deque()
        self._runs = False

    def begin(self, drain: _Drain, descriptor: int) -> None:
        """Watch ``drain``, which reads from ``descriptor``, until :meth:`end`.

        Raises ``OSError`` if no descriptor is left and ``RuntimeError`` if no thread can
        be started; the connection is then closed instead of read without a time limit.
        """
        with self._lock:
            if not self._runs:
                if not start_daemon("silent-refresh-drain", self._run):
                    raise RuntimeError("no thread can be started")
                self._runs = True
            self._drains.append(drain)  # first, so that the thread closes what is opened
            drain.open(descriptor)

    def end(self, drain: _Drain) -> bool:
        """Stop watching ``drain``; return whether it ended in time."""
        with self._lock:
            drain.close()
            return drain.in_time

    def _run(self) -> None:
        while (pause := self._serve()) is not None:
            time.sleep(pause)

    def _serve(self) -> float | None:
        """End the drains that are due; return the seconds until the next one is.

        ``None`` if there is none, which ends the thread.
        """
        with self._lock:
            self._runs = False  # also if this raises
            while self._drains:
                oldest = self._drains[0]
                left = oldest.due - time.monotonic()
                if left > 0:
                    self._runs = True
                    return left
                self._drains.popleft()
                if oldest.descriptors:
                    oldest.in_time = False
                    _shut_down(oldest.descriptors[0])
                    oldest.close()
            return None


def _shut_down(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the peer has closed it, or it is not a socket
        connection = socket.socket(fileno=descriptor)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()


_watch = _Watch()
