"""The lead's work: lock, reload, exchange, save, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import requests

from .calls import Call, LeftBehind
from .errors import (
    RefreshFailed,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    StoreError,
    StoreUnavailable,
)
from .forking import reset_in_child
from .freshness import Current
from .keeper import Keeper
from .redaction import strip
from .refresh_queue import Batch, RefreshQueue
from .stores.contract import Hold, LockLost, State, StateMoved, TokenStore
from .token import Token

logger = logging.getLogger("requests_silent_refresh")

EXCHANGE_TIMEOUT = 30.0
# The lock is given up before the waiters are, so that they hear who holds it.
LOCK_SHARE = 0.8


class Refresh(Protocol):
    """What exchanges a token for a new one: any callable.

    It raises ``SessionExpired`` where the server refused the token for good,
    ``requests.RequestException`` where the server could not be reached, and
    anything else for a wrong set-up. Optional attributes say more: ``rotates``
    (``True`` if absent), ``needs_sign_in`` (``True``), ``timeout`` (30 seconds
    in all, after which the call is left behind), ``revoke(token)``.
    """

    def __call__(self, token: Token | None, /) -> Token:
        """Exchange ``token``; ``None`` where there is none and none is needed."""
        ...


class Refresher:
    """Carries out one refresh at a time, for the batch that leads.

    The steps, and what is true if the process dies after each:

    1. ``exclusive``: nothing happened; the kernel (or the lease) frees the lock.
    2. reload: somebody else refreshed meanwhile? Adopt theirs, no exchange.
    3. ``begin``: a mark says that a refresh of this generation is under way.
    4. exchange: the server may have rotated. The mark stays; the next holder
       tries the stored token once at once (grace windows are seconds long) and
       can say why it was refused.
    5. save, by compare-and-set: durable from here on. A state that moved
       meanwhile (a sign-in, a sign-out, a lost lease) wins over the result.
    6. publish, then release the lock, then wake the waiters.

    An exchange that hangs past its own deadline is left behind: it keeps neither
    the lead nor the lock. If it is granted in the end, :meth:`_late` saves the
    result by compare-and-set, which drops it where anything newer is stored.
    """

    def __init__(
        self,
        refresh: Refresh,
        store: TokenStore,
        queue: RefreshQueue,
        keeper: Keeper,
        clock: Callable[[], float],
    ) -> None:
        self._refresh = refresh
        self._store = store
        self._queue = queue
        self._keeper = keeper
        self._clock = clock
        self._forked = False
        self.exchanges = 0
        self.adopted = 0
        self._rotates: bool = getattr(refresh, "rotates", True)
        self.needs_sign_in: bool = getattr(refresh, "needs_sign_in", True)
        timeout: float | None = getattr(refresh, "timeout", None)
        # A grant keeps its own deadline; this one is for what a grant cannot interrupt.
        self.exchange_timeout = EXCHANGE_TIMEOUT if timeout is None else timeout + 0.5
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Remember that a store of this process only was copied."""
        self._forked = True

    def run(self, batch: Batch) -> Token | SilentRefreshError:
        """Refresh for ``batch`` and return the token, or the error that everybody shares."""
        try:
            unsaved = self._keeper.save_unsaved()
            if unsaved is not None:
                return self._exchange(unsaved.state, unsaved.hold)
            return self._under_lock(batch)
        except SilentRefreshError as error:
            return share(error)
        except Exception as error:
            logger.exception("a refresh failed where it must not")
            message = f"the refresh failed unexpectedly{_place(error)}: {type(error).__name__}"
            return share(RefreshFailed(message), error)

    def _under_lock(self, batch: Batch) -> Token | SilentRefreshError:
        if self._forked and not self._store.shared and self._rotates:
            raise StoreError(
                f"{self._store!r} was copied by fork(): a refresh here would spend the parent's "
                "refresh token. Give the manager an EncryptedFileStore, which processes share"
            )
        deadline = batch.started + self._queue.wait_timeout * LOCK_SHARE
        while True:
            current = self._queue.current
            if self._serves(current, batch):
                return self._adopted(current)
            left = max(0.0, deadline - time.monotonic())
            hold = self._store.exclusive(left, after=current.state)
            if hold is not None:
                try:
                    return self._holding(hold, batch)
                except LockLost:  # this process was stopped for so long; others have gone on
                    if left <= 0:
                        raise
            self._keeper.reconcile()
            if left <= 0 and not self._serves(self._queue.current, batch):
                raise StoreUnavailable(f"{self._store!r} changes faster than it can be read")

    def _holding(self, hold: Hold, batch: Batch) -> Token | SilentRefreshError:
        try:
            current = self._keeper.reconcile()
            if self._serves(current, batch):
                return self._adopted(current)
            return self._exchange(current.state, hold)
        finally:
            self._keeper.release(hold)

    def _serves(self, current: Current, batch: Batch) -> bool:
        """Say whether somebody else brought a usable token since the batch was opened."""
        return (
            current is not batch.based_on
            and current.token is not None
            and self._clock() < current.wait_at
        )

    def _adopted(self, current: Current) -> Token:
        self.adopted += 1
        logger.info("a token that was brought elsewhere is used now")
        assert current.token is not None  # noqa: S101 (for the type checker: see _serves)
        return current.token

    def _exchange(self, state: State | None, hold: Hold) -> Token | SilentRefreshError:
        """Exchange the token of ``state``; only called while ``hold`` is held."""
        token = None if state is None else state.token
        if token is None and self.needs_sign_in:
            return SessionExpired("nobody is signed in")
        if state is not None and self._keeper.unsaved is None:
            hold.begin(state, self.exchange_timeout)
        try:
            granted = self._call(state, token, hold)
        except SessionExpired as error:
            return self._refused(state, error, hold.interrupted_at)
        answer = self._keeper.keep(granted, state, hold)
        if answer is granted:
            logger.info("refreshed")
        elif not isinstance(answer, Token):
            self.revoke(granted)  # a sign-out won: nobody else will ever know this token
        return answer

    def _call(self, state: State | None, token: Token | None, hold: Hold) -> Token:
        """Run the exchange under its deadline. Raises errors of this package only."""
        # An unsaved token is known to nobody else, whoever has the lock.
        needs_lock = self._keeper.unsaved is None

        def exchange() -> Token:
            if needs_lock and not hold.still_held():
                raise LockLost("this process was stopped before it could refresh: try again")
            self.exchanges += 1
            self._queue.enter_callback()
            try:
                return self._refresh(token)
            finally:
                self._queue.leave_callback()

        call = Call(exchange, lambda granted: self._late(granted, state), "silent-refresh-exchange")
        cause: BaseException | None = None
        failure: SilentRefreshError
        try:
            granted = call.result(self.exchange_timeout)
            if isinstance(granted, Token):
                return granted
            failure = RefreshFailed(
                f"the refresh callable returned {type(granted).__name__}: it must return a Token"
            )
        except LeftBehind:
            failure = RefreshUnavailable(
                f"the token endpoint has not answered within {self.exchange_timeout:g} s"
            )
        except SilentRefreshError as error:
            failure = error
        except requests.RequestException as error:
            # requests' complaints about a URL are ValueErrors: no retry mends those.
            kind = RefreshFailed if isinstance(error, ValueError) else RefreshUnavailable
            failure, cause = kind(f"the token endpoint is out of reach: {error}"), error
        except Exception as error:  # noqa: BLE001 (the application's code may raise anything)
            cause = error
            failure = RefreshFailed(
                f"the refresh callable raised {type(error).__name__}{_place(error)}: {error}"
            )
        raise share(failure, cause)

    def _refused(
        self, state: State | None, error: SessionExpired, interrupted_at: float | None
    ) -> Token | SilentRefreshError:
        """The server's verdict: wipe, unless somebody else rotated or signed in meanwhile (P7)."""
        if interrupted_at is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(interrupted_at))
            error.args = (f"{error} (a refresh that began at {when} was interrupted)",)
        if state is not None:
            current = self._keeper.wipe(state)
            if current.token is not None:
                return current.token
        if not self.needs_sign_in:
            # Nobody could sign in: latching would end for ever what a restart would mend.
            return share(RefreshFailed(str(error), error=error.error), error)
        logger.warning("the session expired: %s", error)
        return share(error)

    def _late(self, granted: Token, state: State | None) -> None:
        """Save what a call that was left behind brought after all; runs in the call's thread."""
        if not isinstance(granted, Token) or state is None:
            return
        try:
            self._store.save(granted, after=state)
            logger.info("a late answer of the token endpoint was saved")
        except StateMoved as moved:
            if moved.state is None or moved.state.token is None:
                self.revoke(granted)
        except Exception as error:  # noqa: BLE001 (nobody above this thread would hear of it)
            logger.error("a late answer could not be saved: %s", type(error).__name__)
            return
        self._keeper.adopt_stored()

    def revoke(self, token: Token) -> None:
        """Revoke ``token`` at the server, best effort (RFC 7009). Never raises; may block as long
        as an exchange."""
        revoke: Any = getattr(self._refresh, "revoke", None)
        if revoke is None:
            return
        try:
            revoke(token)
        except Exception as error:  # noqa: BLE001 (best effort, whatever the callable raises)
            logger.warning("a token could not be revoked: %s", type(error).__name__)


def share(error: SilentRefreshError, cause: BaseException | None = None) -> SilentRefreshError:
    """Make ``error`` fit to be shared: no frames, no request, no response, a stripped cause."""
    cause = cause or error.__cause__
    strip(error)
    error.__context__ = None
    error.__cause__ = None if cause is None else strip(cause)
    return error


def _place(error: BaseException) -> str:
    """Where a callable of the user's raised; the frames themselves are cut (P12)."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
