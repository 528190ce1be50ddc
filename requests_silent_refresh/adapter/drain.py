"""Taking a rejected response's body off its connection, within bounds of size and time."""

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

DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0
_PIECE = 16 * 1024


def keep_body(rejected: Response) -> None:
    """Take the 401's body off the connection, so that waiting holds none of the pool's.

    At most 64 KiB as they came, and one second; what is longer or slower is cut
    off and its connection closed. What was read stays readable in ``rejected``
    as before: ``content``, ``iter_content`` and ``raw`` give it, undecoded in
    ``raw``. A response whose body was read already (by an ``is_rejected`` of the
    application's, by another transport) is left as it is.
    """
    raw = rejected.raw
    # What requests itself goes by; reading `.content` would read all of a body.
    if rejected._content_consumed:
        return
    if not isinstance(raw, urllib3.HTTPResponse):
        with contextlib.suppress(Exception):
            _ = rejected.content  # another transport's kind of body: it answers for its size
        return
    body, whole = b"", False
    try:
        body, whole = _drain(raw)
    finally:  # a KeyboardInterrupt, too, must not cost a blocking pool its place
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
    # Under urllib3's own response, for two reasons: its `read1` is younger than the
    # releases we support; and it hands the connection on with the last byte, so that
    # the watch might cut off somebody else's request.
    source = raw._original_response
    if type(source) is not http.client.HTTPResponse:  # a stub's, a recorder's: in memory
        with contextlib.suppress(Exception):
            kept = raw.read(DRAIN_BYTES + 1, decode_content=False)
            return kept[:DRAIN_BYTES], len(kept) <= DRAIN_BYTES
        return b"", False
    if source.isclosed():
        return b"", True
    drain, body, ended = _Drain(), bytearray(), False
    try:
        # Whatever goes wrong (cut off, no HTTP), the connection is of no further use.
        with contextlib.suppress(Exception):
            _watch.begin(drain, source.fileno())
            while not ended and len(body) <= DRAIN_BYTES:
                piece = source.read1(_PIECE)
                body += piece
                ended = not piece
    finally:
        in_time = _watch.end(drain)
    if ended and in_time:
        source.close()  # its end of the connection only; http.client waits for that
    return bytes(body[:DRAIN_BYTES]), ended and in_time


class _Drain:
    """One body being drained. Its fields belong to the watch's Condition.

    ``descriptor`` is one of its own: the response's may be closed, and its
    number given to somebody else, while the watch looks at it. It becomes a
    socket object at the last moment, since making one may change how the
    connection blocks (``socket.setdefaulttimeout``).
    """

    def __init__(self) -> None:
        self.due = time.monotonic() + DRAIN_SECONDS
        self.descriptor: int | None = None
        self.in_time = True


class _Watch:
    """Shuts the connections of slow drains down, which ends any read of them (P8).

    A timeout of the socket would not do: it is one for each ``recv``, and a
    single read of a chunked body may take thousands. One thread serves all the
    drains of the process; it is there while there are any, and for a second more.

    Every drain has the same time, so the oldest is due first, and the thread
    sleeps until then whatever else comes. A drain that ended stays in the queue
    until it is due, without its connection. The Condition guards all fields; a
    connection is shut down under it, which does not block, and cannot happen to
    one whose drain has ended.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the drains and the thread are the parent's."""
        self._changed = threading.Condition()
        self._drains: deque[_Drain] = deque()
        self._runs = False

    def begin(self, drain: _Drain, descriptor: int) -> None:
        """Watch ``drain``, which reads from ``descriptor``, until its end.

        Raises ``OSError`` where descriptors are short and ``RuntimeError`` where
        no thread can be started: rather a new connection than a read without bound.
        """
        with self._changed:
            if not self._runs:
                threading.Thread(target=self._run, name="silent-refresh-drain", daemon=True).start()
                self._runs = True
            drain.descriptor = os.dup(descriptor)
            self._drains.append(drain)
            if len(self._drains) == 1:
                self._changed.notify()

    def end(self, drain: _Drain) -> bool:
        """Watch ``drain`` no longer; say whether it ended in time."""
        with self._changed:
            descriptor, drain.descriptor = drain.descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        return drain.in_time

    def _run(self) -> None:
        with self._changed:
            # Asked once more after a wait: a drain may begin just when that times out.
            while self._drains or self._changed.wait(DRAIN_SECONDS) or self._drains:
                left = self._drains[0].due - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                drain = self._drains.popleft()
                if drain.descriptor is not None:
                    drain.in_time = False
                    _shut_down(drain.descriptor)
            self._runs = False


def _shut_down(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the peer was quicker, or it is no socket
        connection = socket.socket(fileno=descriptor)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()


_watch = _Watch()
