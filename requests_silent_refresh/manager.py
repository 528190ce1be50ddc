"""``TokenManager``: which token now, and who refreshes."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from .asking import Asking, OnSessionExpired
from .errors import SessionExpired, SilentRefreshError, StoreError
from .freshness import NOT_LOADED, Current
from .keeper import Keeper, is_newer
from .refresh_queue import Batch, RefreshQueue
from .refresher import Refresh, Refresher
from .stores.contract import StateMoved, TokenStore
from .stores.memory import MemoryStore
from .token import Token

logger = logging.getLogger("requests_silent_refresh")

SAVE_RETRY_CAP = 30.0


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counters of one manager since it was made: an immutable snapshot."""

    exchanges: int
    """Calls of ``refresh``."""
    adopted: int
    """Refreshes that ended with a token somebody else had brought."""
    failures: int
    """Refreshes that ended without a token."""
    waits: int
    """Times a request waited for a refresh."""
    wait_seconds: float
    """Seconds that requests waited, added up over all of them."""
    replays: int
    """Requests sent again with a new token."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to the session: ``refreshed``, ``failed``, ``expired``, ``replayed``.

    ``error`` is what the waiters of a failed or expired refresh raise; ``None``
    otherwise. Holds no secret.
    """

    kind: str
    error: SilentRefreshError | None = None


class TokenManager:
    """Holds the session's token and refreshes it once for everybody who needs it.

    One manager serves any number of adapters, sessions and threads; every method
    is thread-safe. Two managers on one store are one session. It survives
    ``fork`` and pickles to one that reopens its store.

    ``refresh``
        A grant, or any callable ``refresh(token | None) -> Token`` (see
        :class:`~requests_silent_refresh.refresher.Refresh`).
    ``store``
        Where the session lives; ``None`` keeps it in memory only.
    ``wait_timeout``
        Seconds a request waits for a refresh, store's lock and save included,
        before it raises ``RefreshTimeout``. The refresh itself goes on.
    ``refresh_ahead``
        The fraction of a token's lifetime before its end (5 minutes at most)
        from which a refresh runs in the background; 0 turns that off.
    ``on_session_expired``
        Called once when the session is over, in a daemon thread of its own and
        without any lock, with the ``SessionExpired``; everybody who waits goes on
        with the token it returns. ``None`` from it means that nobody signed in.
        It may call :meth:`sign_in`, :attr:`signed_in` and :attr:`stats`; what
        would wait for its own answer raises ``RefreshFailed`` at once.
    ``sign_in_timeout``
        Seconds the waiting requests wait for that, 300 by default.
    ``on_refreshed``
        Called with the new token after each refresh of this manager, once it is
        saved, in the refresh's own thread; what it raises is logged.
    ``on_event``
        Called with an :class:`Event`, likewise, after the waiters went on;
        ``replayed`` comes in the request's own thread.
    ``clock``
        Returns Unix time in seconds; for tests.
    """

    def __init__(
        self,
        refresh: Refresh,
        store: TokenStore | None = None,
        *,
        wait_timeout: float = 10.0,
        refresh_ahead: float = 0.2,
        on_session_expired: OnSessionExpired | None = None,
        sign_in_timeout: float = 300.0,
        on_refreshed: Callable[[Token], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(refresh):
            raise TypeError(f"refresh must be a callable, not {type(refresh).__name__}")
        if not wait_timeout > 0 or not sign_in_timeout > 0:
            raise ValueError("wait_timeout and sign_in_timeout are seconds and more than 0")
        if not 0 <= refresh_ahead < 1:
            raise ValueError("refresh_ahead is a fraction of the token's lifetime: 0 <= x < 1")
        self._arguments = {
            "refresh": refresh,
            "store": store,
            "wait_timeout": wait_timeout,
            "refresh_ahead": refresh_ahead,
            "on_session_expired": on_session_expired,
            "sign_in_timeout": sign_in_timeout,
            "on_refreshed": on_refreshed,
            "on_event": on_event,
            "clock": clock,
            "monotonic": monotonic,
        }
        self._store = store = MemoryStore() if store is None else store
        self._clock = clock
        self._on_refreshed = on_refreshed
        self._on_event = on_event
        self._queue = RefreshQueue(wait_timeout, clock, monotonic)
        self._keeper = Keeper(store, self._queue, refresh_ahead, clock)
        self._refresher = Refresher(refresh, store, self._queue, self._keeper, clock)
        self._asking = (
            None
            if on_session_expired is None
            else Asking(on_session_expired, sign_in_timeout, store, self._queue, self._keeper)
        )
        self._failures = 0
        self._saver: threading.Thread | None = None
        _managers.add(self)

    # -- for requests ----------------------------------------------------------

    def token(self) -> Token:
        """Return a token that is fresh, refreshing it first where it is not.

        With a fresh token this takes no lock and makes no system call but the
        clock. A token near its end is returned while its refresh begins in the
        background. Otherwise it blocks for ``wait_timeout`` seconds at most (for
        ``sign_in_timeout`` where somebody is asked to sign in). Raises
        ``SessionExpired``, ``RefreshFailed``, ``RefreshUnavailable``,
        ``RefreshTimeout`` or ``StoreError``.
        """
        current = self._queue.current
        if self._clock() < current.due_at:
            return current.token  # type: ignore[return-value]  # no token is never before its due
        return self._token_that_is_due(current)

    def _token_that_is_due(self, current: Current) -> Token:
        if current is NOT_LOADED:
            current = self._keeper.adopt_stored()
        now = self._clock()
        if current.token is None or now >= current.wait_at:
            return self.renew(None)
        if now >= current.due_at:
            self.start_refresh()
        return current.token

    def renew(self, rejected: Token | None) -> Token:
        """Return a token other than ``rejected``, which the server did not take (P3).

        ``rejected`` is the very object that the failed request carried; if it
        was replaced meanwhile nothing is refreshed. ``None`` asks for any fresh
        token. Blocks and raises as :meth:`token` does.
        """
        if self._queue.current is NOT_LOADED:
            self._keeper.adopt_stored()
        if self._queue.time_for_a_look():
            try:
                self._keeper.adopt_stored()
            except StoreError as trouble:
                logger.warning("the store cannot be read: %s", trouble)
        return self._queue.renew(rejected, self._lead)

    def start_refresh(self, rejected: Token | None = None) -> None:
        """Begin a refresh in the background, unless ``rejected`` was replaced already.

        Never blocks and never raises for what the refresh comes to; does nothing
        while one is under way or has just failed.
        """
        if rejected is not None and self._queue.current.token is not rejected:
            return
        batch = self._queue.open_if_idle()
        if batch is not None:
            self._lead(batch)

    # -- for people -------------------------------------------------------------

    @property
    def signed_in(self) -> bool:
        """Whether there is a session; looks into the store if nobody did yet (P9).

        Takes no lock that an exchange holds. Raises ``StoreError`` where the
        store cannot be read.
        """
        return self._keeper.adopt_stored().token is not None

    def sign_in(self, token: Token | Mapping[str, Any]) -> None:
        """Start a session with ``token``, replacing any other, and wake who waits for one.

        A mapping is read as a token endpoint's answer (or a token dictionary of
        requests-oauthlib or Authlib). Never waits for an exchange; a result of
        one under way is dropped. Raises ``ValueError`` for a mapping without a
        usable token and ``StoreError`` where it cannot be saved: nothing has
        changed then.
        """
        if not isinstance(token, Token):
            token = Token.from_response(token)
        self._store.save(token, after=None)
        self._keeper.adopt_stored()
        logger.info("signed in")

    def sign_out(self) -> None:
        """End the session: revoke its tokens at the server (RFC 7009), then wipe the store.

        The store is wiped even if the revocation fails; that blocks for as long
        as the grant's ``timeout`` at most. An exchange under way is fenced off,
        and its result revoked. Raises ``StoreError`` where the store cannot be
        changed.
        """
        while True:
            stored, known = self._store.load(), self._queue.current.state
            state = known if is_newer(known, stored, same_lineage=True) else stored
            if stored is None or state is None or state.token is None:
                break
            self._refresher.revoke(state.token)
            try:
                self._store.replace(state.followed_by(None), after=stored)
            except StateMoved:
                continue
            break
        self._keeper.adopt_stored()
        if self._refresher.needs_sign_in:
            self._queue.end_session(SessionExpired("signed out: call manager.sign_in(token)"))
        logger.info("signed out")

    @property
    def stats(self) -> Stats:
        """What happened so far, as an immutable snapshot."""
        return Stats(
            exchanges=self._refresher.exchanges,
            adopted=self._refresher.adopted,
            failures=self._failures,
            waits=self._queue.waits,
            wait_seconds=self._queue.wait_seconds,
            replays=self._queue.replays,
        )

    def __repr__(self) -> str:
        return f"TokenManager({self._arguments['refresh']!r}, store={self._store!r})"

    def __reduce__(self) -> Any:
        # To what reopens the store. A literal key or secret refuses by itself.
        if isinstance(self._store, MemoryStore) and self._refresher.needs_sign_in:
            return self._store.__reduce_ex__(2)
        return _rebuild, (self._arguments,)

    # -- the worker --------------------------------------------------------------

    def _lead(self, batch: Batch) -> None:
        _finish_before_a_multiprocessing_child_ends()
        batch.worker = threading.Thread(
            target=self._work, args=(batch,), name="silent-refresh", daemon=True
        )
        try:
            batch.worker.start()
        except RuntimeError:  # no thread can be started any more: at exit, or at a limit
            batch.worker = threading.current_thread()
            self._work(batch)

    def _work(self, batch: Batch) -> None:
        outcome: Token | SilentRefreshError | None = None
        try:
            outcome = self._refresher.run(batch)
            if isinstance(outcome, SessionExpired) and self._asking and not self._queue.asked:
                outcome = self._asking.ask(batch, outcome)
        finally:
            # Without an outcome (an exception thrown into this very thread) the
            # waiters go round again and one of them leads.
            self._queue.finish(batch, outcome)
        if self._keeper.unsaved is not None:
            self._keep_saving()
        self._tell_outcome(outcome)

    def _tell_outcome(self, outcome: Token | SilentRefreshError | None) -> None:
        if isinstance(outcome, Token):
            if self._on_refreshed is not None:
                _call_safely(self._on_refreshed, outcome)
            self._tell(Event("refreshed"))
        elif outcome is not None:
            self._failures += 1
            expired = isinstance(outcome, SessionExpired)
            if not expired:
                logger.warning("the refresh failed: %s", outcome)
            self._tell(Event("expired" if expired else "failed", outcome.again()))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            _call_safely(self._on_event, event)

    def replayed(self) -> None:
        """Count a request that an adapter sends again with a new token."""
        self._queue.count_replay()
        self._tell(Event("replayed"))

    # -- a token that could not be saved (P4) -----------------------------------

    def _keep_saving(self) -> None:
        if self._saver is None or not self._saver.is_alive():
            self._saver = threading.Thread(
                target=self._save_until_saved, name="silent-refresh-save", daemon=True
            )
            try:
                self._saver.start()
            except RuntimeError:
                logger.error("no thread can be started to save the token: the next refresh saves")

    def _save_until_saved(self) -> None:
        pause, delay = threading.Event(), 0.5
        while self._keeper.unsaved is not None:
            pause.wait(delay)
            delay = min(2 * delay, SAVE_RETRY_CAP)
            self._save_once()

    def _save_once(self) -> None:
        """Try to save the unsaved token in the lead of a batch, where nobody else touches it."""
        batch = self._queue.open_if_idle()
        if batch is None:
            return  # whoever refreshes now saves first
        batch.worker = threading.current_thread()
        try:
            self._keeper.save_unsaved()
        finally:
            self._queue.finish(batch, None)

    # -- leaving -------------------------------------------------------------------

    def finish(self) -> None:
        """Wait until a refresh under way is finished and saved (P5).

        Called at interpreter exit. Blocks for as long as a refresh may take:
        the store's lock, the exchange's own timeout and the save; not for a
        person who is asked to sign in.
        """
        limit = self._queue.wait_timeout + self._refresher.exchange_timeout
        self._queue.wait_until_idle(limit)
        if self._keeper.unsaved is not None:
            self._save_once()
            if self._keeper.unsaved is not None:
                logger.error("the refreshed token is lost: it could not be saved before the exit")


_managers: weakref.WeakSet[TokenManager] = weakref.WeakSet()
_hooked_into_multiprocessing = False


def _finish_all() -> None:
    """Finish every manager's refresh, through any number of Ctrl-C."""
    for manager in list(_managers):
        while True:
            try:
                manager.finish()
            except KeyboardInterrupt:
                continue
            break


atexit.register(_finish_all)


def _finish_before_a_multiprocessing_child_ends() -> None:
    """A child of multiprocessing ends by ``os._exit`` and runs its own finalizers only."""
    global _hooked_into_multiprocessing  # noqa: PLW0603 (once per process)
    if _hooked_into_multiprocessing or "multiprocessing.util" not in sys.modules:
        return
    _hooked_into_multiprocessing = True
    sys.modules["multiprocessing.util"].Finalize(None, _finish_all, exitpriority=100)


def _rebuild(arguments: dict[str, Any]) -> TokenManager:
    return TokenManager(**arguments)


def _call_safely(callback: Callable[[Any], object], argument: object) -> None:
    try:
        callback(argument)
    except Exception:
        logger.exception("a callback of the token manager raised")
