"""``TokenManager``: which token now, and who refreshes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SessionExpired, SilentRefreshError, StoreError, StoreUnavailable
from ..grants.protocol import Refresh
from ..redaction import MaskedDict
from ..stores.contract import TokenStore
from ..stores.memory import MemoryStore
from ..token import Token
from .current import NOT_LOADED, Current
from .events import Announcer, RefreshEvent, Stats
from .futility import FutilityGuard
from .refresh_queue import RefreshQueue
from .refresher import Refresher
from .sign_in_again import Asking, OnSessionExpired
from .stored_session import Keeper
from .uploads import Uploads
from .worker import Worker

logger = logging.getLogger("requests_silent_refresh")


class TokenManager:
    """Holds the session's token and refreshes it once for everybody who needs it.

    One manager serves any number of adapters, sessions and threads; every method
    is thread-safe. Two managers on one store are one session. It survives
    ``fork`` and pickles to one that reopens its store.

    ``refresh``
        A grant, or any callable ``refresh(token | None) -> Token`` (see
        :class:`~requests_silent_refresh.grants.protocol.Refresh`).
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
    ``sign_in_hint``
        What a person does to sign in; the message of a ``SessionExpired`` ends with it.
    ``on_refreshed``
        Called with the token that a refresh ended with (exchanged here, or
        adopted from the store), after the waiters went on, in the refresh's own
        thread; what it raises is logged.
    ``on_event``
        Called with an :class:`~requests_silent_refresh.manager.events.RefreshEvent`, likewise;
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
        sign_in_hint: str = "call manager.sign_in(token)",
        on_refreshed: Callable[[Token], object] | None = None,
        on_event: Callable[[RefreshEvent], object] | None = None,
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
            "sign_in_hint": sign_in_hint,
            "on_refreshed": on_refreshed,
            "on_event": on_event,
            "clock": clock,
            "monotonic": monotonic,
        }
        self._store = store = MemoryStore() if store is None else store
        self._sign_in_hint = sign_in_hint
        self._clock = clock
        self._queue = RefreshQueue(wait_timeout, clock, monotonic)
        self._keeper = Keeper(store, self._queue, refresh_ahead, clock)
        self._announcer = Announcer(on_refreshed, on_event)
        self._refresher = Refresher(
            refresh, store, self._queue, self._keeper, self._announcer, clock
        )
        asking = None
        if on_session_expired is not None:
            asking = Asking(on_session_expired, sign_in_timeout, self._queue, self._keeper)
        self._worker = Worker(self._queue, self._keeper, self._refresher, asking, self._announcer)
        self._uploads = Uploads()
        self.futility = FutilityGuard(monotonic)

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
        return self.usable_token() or self.renew(None)

    def usable_token(self) -> Token | None:
        """Return what :meth:`token` returns without a wait; ``None`` where it would refresh first.

        For who counts the refreshes a request asks for. Raises ``StoreError``
        where the store cannot be read, which nobody did yet.
        """
        current = self._queue.current
        if self._clock() < current.due_at:
            return current.token
        return self._token_that_is_due(current)

    def _token_that_is_due(self, current: Current) -> Token | None:
        if current is NOT_LOADED:
            current = self._first_look()
        now = self._clock()
        if current.token is None or now >= current.wait_at:
            return None
        if now >= current.due_at and not self._uploads.under_way:
            self.start_refresh(current.token)
        return current.token

    def begin_upload(self) -> Token:
        """Return a token for a request whose body can't be sent again (P15).

        A refresh that is under way is waited for, and one that is due too, unless
        another upload is under way, whose token it might end; if it fails, a token
        that is still valid will do (P7). Until :meth:`end_upload`, which must follow unless this
        raises, no refresh that can wait is begun. Blocks and raises as
        :meth:`token`.
        """
        current = self._queue.current
        if current is NOT_LOADED:
            current = self._first_look()
        token, now = current.token, self._clock()
        if (
            token is None
            or now >= current.wait_at
            or self._queue.is_replacing(current)
            or not self._uploads.begin(now >= current.due_at)
        ):
            try:
                token = self.renew(token)
            except SilentRefreshError:
                if token is None or self._clock() >= current.expires_at:
                    raise
            self._uploads.begin()
        return token

    def end_upload(self) -> None:
        """Say that an upload is over: its answer came, or none will."""
        self._uploads.end()

    def _first_look(self) -> Current:
        """Look into the store; what needs nothing from there may find it out of reach."""
        try:
            return self._keeper.adopt_stored()
        except StoreUnavailable as trouble:
            if self._refresher.rotates or self._refresher.needs_sign_in:
                raise
            logger.warning("going on without the store: %s", trouble)
            return NOT_LOADED

    def renew(self, rejected: Token | None) -> Token:
        """Return a token other than ``rejected``, which the server did not take (P3).

        ``rejected`` is the very object that the failed request carried; if it
        was replaced meanwhile nothing is refreshed. ``None`` asks for any fresh
        token. Blocks and raises as :meth:`token` does.
        """
        if self._queue.current is NOT_LOADED:
            self._first_look()
        if self._queue.time_for_a_look():
            try:
                self._keeper.adopt_stored()
            except StoreError as trouble:
                logger.warning("the store cannot be read: %s", trouble)
        try:
            return self._queue.renew(rejected, self._worker.lead)
        except SessionExpired as expired:  # one of this caller's own
            expired.args = (f"{expired}; {self._sign_in_hint}",)
            raise

    def start_refresh(self, token: Token) -> None:
        """Begin a refresh of ``token`` in the background, unless it was replaced already (P3).

        Never blocks and never raises for what the refresh comes to; does nothing
        while one is under way or has just failed.
        """
        batch = self._queue.open_if_idle(replacing=token)
        if batch is not None:
            self._worker.lead_in_background(batch)

    def may_renew(self, rejected: Token, path: str) -> bool:
        """Say whether :meth:`renew` may be asked because ``path`` rejected ``rejected``.

        ``False`` where refreshing has not helped lately; a token that was
        replaced already may always be asked for, since that costs no exchange.
        """
        return self._queue.current.token is not rejected or self.futility.allows(path, rejected)

    # -- for people -------------------------------------------------------------

    @property
    def signed_in(self) -> bool:
        """Whether there is a session; looks into the store if nobody did yet (P9).

        Takes no lock that an exchange holds. Raises ``StoreError`` where the
        store cannot be read.
        """
        return self._keeper.adopt_stored().token is not None

    def sign_in(self, token: Token | Mapping[str, Any] | str) -> None:
        """Start a session with ``token``, replacing any other, and wake who waits for one.

        A mapping is what a token endpoint answered or another library kept (see
        :meth:`Token.from_response`); a ``str`` is a refresh token alone, which is
        exchanged at the first use. Never waits for an exchange; a result of one
        under way is dropped. Raises ``ValueError`` where there is no usable token
        and ``StoreError`` where it cannot be saved: nothing has changed then.
        """
        if isinstance(token, str):
            token = MaskedDict(refresh_token=token)
        if not isinstance(token, Token):
            token = Token.from_response(token)
        self._keeper.sign_in(token)
        logger.info("signed in")

    def sign_out(self) -> None:
        """End the session: revoke its tokens at the server (RFC 7009), then wipe the store.

        The store is wiped even if the revocation fails; that blocks for as long
        as the grant's ``timeout`` at most. An exchange under way is fenced off,
        and its result revoked. Nobody is asked to sign in again for it. Raises
        ``StoreError`` where the store cannot be changed; the session is over in
        this process all the same.
        """
        self._queue.ending = True
        try:
            self._keeper.sign_out(self._refresher.revoke)
        finally:
            self._queue.ending = False
            if self._refresher.needs_sign_in:
                self._queue.end_session(SessionExpired("signed out"))
        logger.info("signed out")

    @property
    def stats(self) -> Stats:
        """What happened so far, as an immutable snapshot."""
        return Stats(
            exchanges=self._refresher.exchanges,
            adopted=self._refresher.adopted,
            failures=self._queue.failures,
            waits=self._queue.waits,
            wait_seconds=self._queue.wait_seconds,
            replays=self._announcer.replays,
        )

    def replayed(self) -> None:
        """Count a request that an adapter sends again with a new token."""
        self._announcer.replayed()

    def __repr__(self) -> str:
        return f"TokenManager({self._arguments['refresh']!r}, store={self._store!r})"

    def __reduce__(self) -> Any:
        # To what reopens the store. A literal key or secret refuses by itself.
        if isinstance(self._store, MemoryStore) and self._refresher.needs_sign_in:
            return self._store.__reduce_ex__(2)
        return _rebuild, (self._arguments,)


def _rebuild(arguments: dict[str, Any]) -> TokenManager:
    return TokenManager(**arguments)
