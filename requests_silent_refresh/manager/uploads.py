"""Requests under way whose body cannot be sent again, which hold refreshes back (P15)."""

from __future__ import annotations

import threading

from ..system.forking import reset_in_child


class Uploads:
    """Counts the uploads under way: requests that a 401 would fail, since they cannot be resent.

    Some servers end the old access token when they rotate. So a refresh that can wait does
    not begin while an upload is under way, and before the first upload begins, a refresh
    that is due is finished. The lock makes "is one under way?" and "begin" one step: of two
    uploads that begin together while a refresh is due, both wait for it or neither does.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the parent's uploads never end here."""
        self._lock = threading.RLock()  # a signal handler may send a request
        self.under_way = 0

    def begin(self, refresh_is_due: bool = False) -> bool:
        """Count one more; ``False``, with nothing counted, if a refresh can go first."""
        with self._lock:
            if refresh_is_due and not self.under_way:
                return False
            self.under_way += 1
            return True

    def end(self) -> None:
        """Count one less."""
        with self._lock:
            self.under_way -= 1
