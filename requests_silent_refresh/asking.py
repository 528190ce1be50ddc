"""Asking somebody to sign in again, once, while the requests wait (P10)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .calls import Call
from .errors import SessionExpired, SilentRefreshError, StoreError
from .keeper import Keeper
from .redaction import strip
from .refresh_queue import LOOK_INTERVAL, Batch, RefreshQueue
from .stores.contract import TokenStore
from .token import Token

logger = logging.getLogger("requests_silent_refresh")

OnSessionExpired = Callable[[SilentRefreshError], Token | None]


class Asking:
    """Calls ``on_session_expired`` for a dead session and waits for a sign-in from anywhere.

    Runs in the worker of the batch whose refresh was refused; its waiters stay
    until ``sign_in_timeout``. No lock is held, not even the store's: a sign-in
    in another process must get through. It is over when the callback returns or
    raises, when somebody signs in here or in another process (the waiters leave
    with the published token at once, this worker notices within a second, by a
    look into the store), or when the time is up. A callback that is left behind
    and brings a token after all has it used, if nobody else signed in meanwhile.
    """

    def __init__(
        self,
        callback: OnSessionExpired,
        timeout: float,
        store: TokenStore,
        queue: RefreshQueue,
        keeper: Keeper,
    ) -> None:
        self._callback = callback
        self._timeout = timeout
        self._store = store
        self._queue = queue
        self._keeper = keeper

    def ask(self, batch: Batch, error: SessionExpired) -> Token | SilentRefreshError:
        """Return the token everybody goes on with, or the error everybody gets."""
        self._queue.ask(batch, self._timeout)
        deadline = time.monotonic() + self._timeout
        call = Call(lambda: self._call_back(error), self._late, "silent-refresh-sign-in")
        while not call.wait(max(0.0, min(LOOK_INTERVAL, deadline - time.monotonic()))):
            token = self._signed_in()
            if token is None and time.monotonic() < deadline:
                continue
            if not call.leave():
                break
            return token or SessionExpired(
                f"the session expired and nobody signed in within {self._timeout:g} s"
            )
        return self._answer(call, error)

    def _call_back(self, error: SessionExpired) -> Token | None:
        self._queue.enter_callback()
        try:
            return self._callback(error.again())
        finally:
            self._queue.leave_callback()

    def _answer(
        self, call: Call[Token | None], error: SessionExpired
    ) -> Token | SilentRefreshError:
        try:
            token = call.result(0)
            if token is not None:
                self._store.save(token, after=None)
        except Exception as trouble:  # noqa: BLE001 (the application's code may raise anything)
            logger.error("on_session_expired brought no token: %s", type(trouble).__name__)
            failed = SessionExpired(f"{error}; on_session_expired failed: {trouble}")
            failed.__cause__ = strip(trouble)
            return failed
        return self._signed_in() or error

    def _signed_in(self) -> Token | None:
        """Return the token of a sign-in from anywhere, if there is one by now."""
        try:
            return self._keeper.adopt_stored().token
        except StoreError:
            return self._queue.current.token

    def _late(self, token: Token | None) -> None:
        if token is not None and self._signed_in() is None:
            self._store.save(token, after=None)
            self._keeper.adopt_stored()
