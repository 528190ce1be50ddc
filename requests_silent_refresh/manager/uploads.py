"""Requests under way whose body can't be sent again: no refresh may get in their way (P15)."""

from __future__ import annotations

import threading

from ..system.forking import reset_in_child


class Uploads:
    """Counts the uploads under way: requests that a 401 would fail, since they can't be replayed.

    Some servers end the old access token when they rotate, so a refresh that
    could wait is not begun while one is under way, and before the first begins
    a refresh that is due is finished. The lock makes "is any under way?" and
    "then I am" one step: of two uploads that begin together while a refresh is
    due, either both wait for it or neither does.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the parent's uploads never end here."""
        self._lock = threading.RLock()  # a signal handler may send a request, too
        self.under_way = 0

    def begin(self, refresh_is_due: bool = False) -> bool:
        """Count one more; ``False``, and nothing counted, where a refresh can go first."""
        with self._lock:
            if refresh_is_due and not self.under_way:
                return False
            self.under_way += 1
            return True

    def end(self) -> None:
        """Count one less."""
        with self._lock:
            self.under_way -= 1
