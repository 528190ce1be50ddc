"""Requests under way whose body cannot be sent again, which hold refreshes back (P15)."""

from __future__ import annotations

import threading
import weakref

from ..system.forking import reset_in_child
from ..token import Token


class Upload:
    """One upload under way, and the token that it carries. It is over when it is dropped."""

    def __init__(self, token: Token) -> None:
        self.token = token


class Uploads:
    """Counts the uploads under way: requests that a 401 would fail, since they cannot be resent.

    Some servers end the old access token when they rotate. So a refresh that can wait does
    not begin while an upload is under way, and before the first upload begins, a refresh
    that is due is finished. The lock makes "is one under way?" and "begin" one step: of two
    uploads that begin together while a refresh is due, both wait for it or neither does.

    Uploads are held weakly, so that one which a signal handler's exception ended, at
    whatever line, is not counted for ever.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the parent's uploads never end here."""
        self._lock = threading.RLock()  # a signal handler may send a request
        self._uploads: weakref.WeakSet[Upload] = weakref.WeakSet()

    @property
    def under_way(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._uploads)  # `len` counts what is about to be removed

    def begin(self, token: Token) -> Upload:
        """Return one more."""
        upload = Upload(token)
        with self._lock:
            self._uploads.add(upload)
        return upload

    def join(self, token: Token) -> Upload | None:
        """Return one more beside those under way; ``None`` if there are none."""
        with self._lock:
            return self.begin(token) if self._uploads else None

    def end(self, upload: Upload) -> None:
        """Count it no longer."""
        with self._lock:
            self._uploads.discard(upload)
