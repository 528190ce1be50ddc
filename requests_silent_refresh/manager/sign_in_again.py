"""Asking somebody to sign in again, once, while the requests wait (P10)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..errors import RefreshFailed, RefreshUnavailable, SessionExpired, SilentRefreshError
from ..redaction import share
from ..system.background_call import Call
from ..system.foreign import account_of
from ..token import Token
from .batch import Batch
from .refresh_queue import LOOK_INTERVAL, RefreshQueue
from .stored_session import StoredSession

logger = logging.getLogger("requests_silent_refresh")

OnSessionExpired = Callable[[SessionExpired], Token | None]


class NotATokenError(Exception):
    """What ``on_session_expired`` returned is of no use."""


class SignInAgain:
    """Calls ``on_session_expired`` for a dead session and waits for a sign-in from anywhere.

    Runs in the worker of the batch whose refresh was refused, and the waiters stay until
    ``sign_in_timeout``. No lock is held, not even the store's: a sign-in in another process
    must get through. It ends when the callback returns or raises, when somebody signs in
    here or in another process (the waiters leave with the published token at once, this
    worker notices within a second by a look into the store), when somebody signs out, or
    when the time is up.

    - *The callback returns a token although somebody signed in meanwhile*: that sign-in
      stays, also if the waiters have noticed it and this worker has not yet.
    - *A callback that was left behind* returns a token in the end: it is used, under the
      same condition, and unless a sign-out came in between.
    - *The callback signs in itself* and returns ``None``: that counts like any sign-in.
    - *The callback is a grant that needs no sign-in* and fails: the requests get its error, and
      the next refresh calls it again.
    """

    def __init__(
        self, callback: OnSessionExpired, timeout: float, queue: RefreshQueue, stored: StoredSession
    ) -> None:
        self._callback = callback
        self._is_grant = getattr(callback, "needs_sign_in", True) is False
        self._timeout = timeout
        self._queue = queue
        self._stored = stored

    def ask(self, batch: Batch, error: SessionExpired) -> Token | SilentRefreshError:
        """Return the token that everybody goes on with, or the error that everybody gets."""
        if not self._queue.ask(batch, self._timeout):
            return error
        logger.info("asking for a sign-in: %s", error)
        deadline = time.monotonic() + self._timeout
        call = Call(
            lambda: self._call_back(error),
            lambda token: self._late(batch, token),
            "silent-refresh-sign-in",
        )
        while not call.wait(max(0.0, min(LOOK_INTERVAL, deadline - time.monotonic()))):
            token = self._signed_in()
            if token is None and not batch.over and time.monotonic() < deadline:
                continue
            if not call.leave():
                break
            if batch.over:
                return error
            return token or SessionExpired(
                f"the session expired and nobody signed in within {self._timeout:g} s"
            )
        return self._answer(batch, call, error)

    def _call_back(self, error: SessionExpired) -> Token | None:
        with self._queue.insiders:
            token = self._callback(error.again())
        if token is not None and not isinstance(token, Token):
            raise NotATokenError(f"it returned a {type(token).__name__}, neither a Token nor None")
        return token

    def _answer(
        self, batch: Batch, call: Call[Token | None], error: SessionExpired
    ) -> Token | SilentRefreshError:
        try:
            self._accept(batch, call.result(0))
        except Exception as trouble:  # noqa: BLE001 (the application's code may raise anything)
            account = account_of(trouble)
            if self._is_grant and isinstance(trouble, (RefreshFailed, RefreshUnavailable)):
                # No person declined: the login is tried again when its backoff is over.
                return share(trouble)
            logger.error("on_session_expired brought no token: %s", account)
            failed = SessionExpired(f"{error}; on_session_expired failed: {account}")
            return share(failed, trouble)
        return self._signed_in() or error

    def _late(self, batch: Batch, token: Token | None) -> None:
        try:
            if self._accept(batch, token):
                logger.info("signed in, late")
        except Exception as trouble:  # noqa: BLE001 (nobody above this thread would hear of it)
            logger.error("a late sign-in could not be saved: %s", account_of(trouble))

    def _accept(self, batch: Batch, token: Token | None) -> bool:
        """Sign in with what the callback returned, unless somebody else signed in or out."""
        if token is None or batch.signed_out or self._signed_in() is not None:
            return False
        self._stored.sign_in(token)
        return True

    def _signed_in(self) -> Token | None:
        """Return the token of a sign-in from anywhere, if there is one by now."""
        try:
            return self._stored.adopt_stored().token
        except Exception:  # noqa: BLE001 (a store that cannot be read now may be read later)
            return self._queue.current.token
