"""The work of a refresh: lock, reload, exchange, save, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import requests

from ..errors import (
    RefreshFailed,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    StoreError,
    StoreUnavailable,
    WrongIdentity,
)
from ..grants.protocol import Refresh, followed_by, timeout_of
from ..redaction import share
from ..stores.contract import Hold, LockLost, State, TokenStore
from ..system.background_call import Call, LeftBehind
from ..system.foreign import account_of, secrets_of
from ..token import Token
from .batch import Batch
from .current import Current
from .events import Announcer
from .refresh_queue import RefreshQueue
from .stored_session import StoredSession

logger = logging.getLogger("requests_silent_refresh")

# The wait for the lock ends before the waiters' own, so that they are told who holds it.
LOCK_SHARE = 0.8
# Seconds that a grant which does not rotate waits for a store that cannot be reached; then
# it goes on without the store.
NON_ROTATING_PATIENCE = 1.0


class _NoLock(Hold):
    """Stands for the lock if none is needed and none can be taken."""

    def release(self) -> None:
        pass


class Refresher:
    """Carries out one refresh at a time, for the batch that leads.

    The steps, and what is true if the process dies after each:

    1. ``exclusive``: nothing has happened; the kernel (or the lease) frees the lock.
    2. reload: if somebody else refreshed meanwhile, that token is adopted, without exchange.
    3. ``begin``: a mark says that a refresh of this generation is under way.
    4. exchange: the server may have rotated. The mark stays, as it does if no answer came;
       the next holder tries the stored token once, at once (grace windows are seconds
       long), and can say why it was refused.
    5. save, by compare-and-set: durable from here on. A state that was stored meanwhile (a
       sign-in, a sign-out, after a lost lease) wins over the result.
    6. publish, then release the lock, then wake the waiters.

    An exchange that hangs past its own deadline is left behind and keeps neither the lead
    nor the lock. If it is granted in the end, :meth:`_late` saves the result by
    compare-and-set, which drops it if anything newer is stored. The grants of this package
    never get there: they cut their connection at their deadline and send nothing
    afterwards. A callable without a timeout of its own may still be talking to the server
    when the next refresh sends the same refresh token.
    """

    def __init__(
        self,
        refresh: Refresh,
        store: TokenStore,
        queue: RefreshQueue,
        stored: StoredSession,
        announcer: Announcer,
        clock: Callable[[], float],
    ) -> None:
        self._refresh = refresh
        self._store = store
        self._queue = queue
        self._stored = stored
        self._announcer = announcer
        self._clock = clock
        self.exchanges = 0
        self.adopted = 0
        self.rotates: bool = getattr(refresh, "rotates", True)
        self.needs_sign_in: bool = getattr(refresh, "needs_sign_in", True)
        self.read_token: Callable[[Any], Token] = getattr(
            refresh, "read_token", Token.from_response
        )
        # A grant keeps its own deadline; this one is for callables that cannot be interrupted.
        self.exchange_timeout = timeout_of(refresh) + 0.5

    def run(self, batch: Batch) -> Token | SilentRefreshError:
        """Refresh for ``batch`` and return the token, or the error that everybody shares."""
        try:
            unsaved = self._stored.unsaved.save_first(
                self._lock_deadline(batch), rotates=self.rotates
            )
            if unsaved is not None:
                return self._exchange(unsaved.state, unsaved.hold)
            return self._under_lock(batch)
        except SilentRefreshError as error:
            return share(error, hide=secrets_of(self._queue.current.token))
        except Exception as error:  # noqa: BLE001 (nothing above would tell the waiters)
            # A user's store, or a mistake of ours.
            failure = RefreshFailed(f"the refresh failed unexpectedly: {account_of(error)}")
            return share(failure, error, secrets_of(self._queue.current.token))

    def _lock_deadline(self, batch: Batch) -> float:
        return batch.started + self._queue.wait_timeout * LOCK_SHARE

    def _under_lock(self, batch: Batch) -> Token | SilentRefreshError:
        if self._stored.is_copy and self.rotates:
            raise StoreError(
                f"{self._store!r} was copied by fork(): a refresh here would spend the "
                "parent's refresh token. Give the manager an EncryptedFileStore, which processes "
                "share, or call take_over()"
            )
        deadline = self._lock_deadline(batch)
        while True:
            current = self._queue.current
            if self._serves(current, batch):
                return self._adopted(current)
            left = max(0.0, deadline - time.monotonic())
            patience = left if self.rotates else min(left, NON_ROTATING_PATIENCE)
            try:
                hold = self._store.exclusive(patience, after=current.state)
            except StoreUnavailable as trouble:
                if self.rotates or (trouble.holder is not None and left <= 0):
                    raise
                if trouble.holder is not None:
                    continue
                # It spends no refresh token, so there is nothing that a lock would guard.
                return self._exchange(current.state, _NoLock())
            if hold is not None:
                try:
                    return self._holding(hold, batch)
                except LockLost:  # it was stopped for so long that others went on, or the store was
                    if left <= 0:
                        raise
                    continue
            self._stored.reconcile()
            if left <= 0 and not self._serves(self._queue.current, batch):
                raise StoreUnavailable(f"{self._store!r} changes faster than it can be read")

    def _holding(self, hold: Hold, batch: Batch) -> Token | SilentRefreshError:
        try:
            current = self._stored.reconcile()
            if self._serves(current, batch):
                return self._adopted(current)
            return self._exchange(current.state, hold)
        finally:
            self._stored.release(hold)

    def _serves(self, current: Current, batch: Batch) -> bool:
        """Say whether there is a usable token that was not there when the batch was opened."""
        return (
            current is not batch.based_on
            and current.token is not None
            and self._clock() < current.wait_at
        )

    def _adopted(self, current: Current) -> Token:
        self.adopted += 1
        logger.info("a token that was refreshed elsewhere is used from now on")
        assert current.token is not None  # noqa: S101 (for the type checker: see _serves)
        return current.token

    def _exchange(self, state: State | None, hold: Hold) -> Token | SilentRefreshError:
        """Exchange the token of ``state``; must be called while ``hold`` is held."""
        token = None if state is None else state.token
        if token is None and self.needs_sign_in:
            return SessionExpired("nobody is signed in")
        if state is not None and token is not None and self._stored.is_final(token):
            return self._at_its_end(state, token)
        if state is not None and self._stored.unsaved.kept is None:
            hold.begin(state, self.exchange_timeout)
        try:
            granted = self._call(state, token, hold)
        except SessionExpired as error:
            return self._refused(state, error, hold.interrupted_at)
        except LockLost:
            raise  # nothing was sent
        except BaseException as error:
            if not _was_answered(error):
                hold.unanswered()
            raise
        try:
            if self._stored.keep(granted, state, hold):
                logger.info("refreshed")
                return granted
        except WrongIdentity:
            self.revoke(granted)  # nobody else will ever hold this token
            raise
        return self._queue.current.token or self._signed_out_meanwhile(granted)

    def _at_its_end(self, state: State, token: Token) -> SilentRefreshError:
        if token.expires_at is not None and self._clock() >= token.expires_at:
            self._stored.end_here(state)
            return SessionExpired("the access token has expired, and there is no refresh token")
        return RefreshFailed(
            "there is no refresh token: the access token is used until it expires. Sign in again "
            "if the server does not accept it any more"
        )

    def _signed_out_meanwhile(self, granted: Token) -> SilentRefreshError:
        self.revoke(granted)  # nobody else will ever hold this token
        what = "signed out while a refresh was under way"
        # If nobody has to sign in, the next request may start from nothing.
        return SessionExpired(what) if self.needs_sign_in else RefreshUnavailable(what)

    def _call(self, state: State | None, token: Token | None, hold: Hold) -> Token:
        """Run the exchange under its deadline. Raises errors of this package only."""

        def exchange() -> Token:
            if self.rotates and not hold.still_held():
                raise LockLost("this process was stopped before it could refresh: try again")
            self.exchanges += 1
            with self._queue.insiders:
                granted = self._refresh(token)
            if self.needs_sign_in and isinstance(granted, Token):
                return followed_by(token, granted)
            return granted

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
            failure = kind(f"the token endpoint cannot be reached: {account_of(error)}")
            cause = error
        except Exception as error:  # noqa: BLE001 (the application's code may raise anything)
            cause = error
            failure = RefreshFailed(f"the refresh callable raised {account_of(error)}")
        raise share(failure, cause, secrets_of(token))

    def _refused(
        self, state: State | None, error: SessionExpired, interrupted_at: float | None
    ) -> Token | SilentRefreshError:
        """Wipe what the server refused, unless a newer token was stored meanwhile (P7)."""
        if interrupted_at is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(interrupted_at))
            what = f"a refresh that began at {when} was interrupted or not answered"
            error.args = (f"{error} ({what})",)
        if state is not None:
            current = self._stored.wipe(state)
            if current.token is not None:
                return current.token
        if not self.needs_sign_in:
            # Nobody could sign in: a dead session would last for ever, and a restart would mend it.
            failure = RefreshFailed(
                str(error),
                error=error.error,
                error_description=error.error_description,
                status_code=error.status_code,
            )
            return share(failure, error)
        return share(error)

    def _late(self, granted: Token, state: State | None) -> None:
        """Save what a call that was left behind returned in the end; runs in the call's thread."""
        if not isinstance(granted, Token) or state is None:
            return
        try:
            kept = self._stored.keep_late(granted, state)
        except Exception as error:  # noqa: BLE001 (nothing above this thread would report it)
            logger.error("the store failed when a late answer came: %s", account_of(error, granted))
            return
        if kept:
            logger.info("a late answer of the token endpoint is used")
            self._announcer.refreshed(granted)
        elif self._queue.current.token is None:
            self.revoke(granted)

    def revoke(self, token: Token) -> None:
        """Revoke ``token`` at the server, best effort (RFC 7009).

        Never raises. Blocks for as long as an exchange at most.
        """
        revoke: Any = getattr(self._refresh, "revoke", None)
        if revoke is None:
            return

        def revoking() -> None:
            with self._queue.insiders:
                revoke(token)

        try:
            call = Call(revoking, lambda _: None, "silent-refresh-revoke")
            call.result(self.exchange_timeout)
        except Exception as error:  # noqa: BLE001 (best effort, whatever the callable raises)
            logger.warning("a token could not be revoked: %s", account_of(error, token))


def _was_answered(error: BaseException) -> bool:
    """Say whether the server answered, and by that left the refresh token as it was."""
    status: int | None = getattr(error, "status_code", None)
    # A server or gateway that breaks down (500, 502, 504) may have rotated before it did.
    return status is not None and (status < 500 or status == 503)
