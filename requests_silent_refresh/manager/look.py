"""Reading the store for requests: once for all of them, and with a bound on the time (P8, P9)."""

from __future__ import annotations

import functools
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

# Seconds that a request which has a token waits for a look at the store.
GLANCE = 0.2


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
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._stored = stored
        self._queue = queue
        self._clock = clock
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
        with self._lock:
            if seen is not None and self._queue.current is not seen:
                return self._queue.current
            reading = self._begin()
        if not reading.wait(timeout):
            raise StoreUnavailable(
                f"{self._store!r} was not read within {timeout:g} s: try again later, or "
                "look at what holds it up"
            )
        read = reading.result(0)
        if isinstance(read, SilentRefreshError):
            raise read.again()
        return read

    def aside(self) -> Current:
        """Look at the store if that is due, and return what is current then (P17).

        Blocks for at most 0.2 s; a later answer is published all the same. A store that cannot be
        read, or that has lost everything, changes nothing: the token is valid (P7).
        """
        now = self._clock()
        if now < self._stored.look_at or self._queue.insiders.am_one():
            return self._queue.current
        with self._lock:
            if now < self._stored.look_at:  # another request looks
                return self._queue.current
            self._stored.look_at = now + self._store.look_interval
            if self._reading is not None and not self._reading.ended:
                return self._queue.current  # the store hangs: one request has waited for it
            reading = self._begin(unless_lost=True)
        if not reading.start():  # no thread can be started, and the store may hang
            return self._queue.current
        if reading.wait(GLANCE) and isinstance(trouble := reading.result(0), SilentRefreshError):
            logger.debug("the store cannot be read: %s", trouble)
        return self._queue.current

    def _begin(self, *, unless_lost: bool = False) -> Call[Current | SilentRefreshError]:
        """Return the read that is under way, or a new one; must be called with the lock held."""
        if self._reading is None or self._reading.ended:
            read = functools.partial(self._read, unless_lost)
            self._reading = Call(read, lambda _: None, "silent-refresh-look")
        return self._reading

    def _read(self, unless_lost: bool) -> Current | SilentRefreshError:
        """Read the store; return an error that many threads can raise a copy of."""
        try:
            with self._queue.insiders, self._readers:
                return self._stored.adopt_stored(unless_lost=unless_lost)
        except SilentRefreshError as error:
            return share(error)
        except BaseException as error:  # noqa: BLE001 (raised in the thread of a user's store)
            return share(StoreError(f"{self._store!r} failed: {account_of(error)}"), error)
