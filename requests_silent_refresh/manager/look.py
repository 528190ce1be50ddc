"""Reading the store for requests: once for all of them, and with a bound on the time (P8, P9)."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

from ..errors import RefreshFailed, SilentRefreshError, StoreError, StoreUnavailable
from ..redaction import share
from ..stores.contract import TokenStore
from ..system.background_call import Call
from ..system.foreign import account_of
from ..system.forking import reset_in_child
from .batch import Insiders
from .current import Current
from .refresh_queue import RefreshQueue
from .stored_session import StoredSession

logger = logging.getLogger("requests_silent_refresh")

LOOK_INTERVAL = 1.0


class Look:
    """Adopts what is stored, in a thread that can be left behind.

    A store may hang in ``load`` (a dead network file system, a database behind a VPN, a key
    service). So requests do not read it themselves: one thread reads for all that ask at the
    same time, and publishes what it found, however late. The lock guards the fields.
    """

    def __init__(
        self,
        store: TokenStore,
        stored: StoredSession,
        queue: RefreshQueue,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._stored = stored
        self._queue = queue
        self._monotonic = monotonic
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: the thread that reads is the parent's."""
        self._lock = threading.RLock()
        self._readers = Insiders()
        self._reading: Call[Current | SilentRefreshError] | None = None
        self._looked_at = -math.inf

    def now_and_then(self, timeout: float) -> None:
        """Do as :meth:`adopt_stored`, at most once a second; a failure is logged.

        For a session that cannot be refreshed here: somebody may have signed in elsewhere.
        """
        if self._monotonic() - self._looked_at < LOOK_INTERVAL:
            return
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at < LOOK_INTERVAL:
                return
            self._looked_at = now
        try:
            self.adopt_stored(timeout)
        except SilentRefreshError as trouble:
            logger.warning("the store cannot be read: %s", trouble)

    def adopt_stored(self, timeout: float, seen: Current | None = None) -> Current:
        """Publish what the store holds if it is newer, and return what is current then.

        ``seen`` is what the caller found to be current: if another state has been published
        since, that is returned. Blocks for at most ``timeout`` seconds, then raises
        ``StoreUnavailable``. Raises a ``StoreError`` if the store cannot be read, whatever it
        raised.
        """
        if self._readers.am_one():
            raise RefreshFailed(
                "the store asked for the token that is being read from it and would wait for "
                "itself: give it a session of its own, without this adapter"
            )
        if self._queue.insiders.am_one():  # a callback, which holds up no request's thread
            return self._stored.adopt_stored()
        with self._lock:
            if seen is not None and self._queue.current is not seen:
                return self._queue.current
            reading = self._reading
            if reading is None or reading.ended:
                self._reading = reading = Call(self._read, lambda _: None, "silent-refresh-look")
        if not reading.wait(timeout):
            raise StoreUnavailable(
                f"{self._store!r} was not read within {timeout:g} s: try again later, or "
                "look at what holds it up"
            )
        read = reading.result(0)
        if isinstance(read, SilentRefreshError):
            raise read.again()
        return read

    def _read(self) -> Current | SilentRefreshError:
        """Read the store; return an error that many threads can raise a copy of."""
        try:
            with self._queue.insiders, self._readers:
                return self._stored.adopt_stored()
        except SilentRefreshError as error:
            return share(error)
        except BaseException as error:  # noqa: BLE001 (raised in the thread of a user's store)
            return share(StoreError(f"{self._store!r} failed: {account_of(error)}"), error)
