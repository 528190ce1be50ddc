"""``TokenManager``: the current token, and who refreshes it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import arguments
from ..errors import SessionExpired, SilentRefreshError, StoreUnavailable
from ..grants.protocol import Refresh
from ..redaction import MaskedDict
from ..stores.contract import TokenStore, check_stores
from ..stores.memory import MemoryStore
from ..system.foreign import name_of
from ..token import Token
from .current import NOT_LOADED, Current
from .events import Announcer, RefreshEvent, Stats
from .futility import FutilityGuard
from .guarded_store import guarded
from .look import Look
from .refresh_queue import RefreshQueue
from .refresher import Refresher
from .sign_in_again import OnSessionExpired, SignInAgain
from .stored_session import StoredSession
from .uploads import Upload, Uploads
from .worker import Worker

logger = logging.getLogger("requests_silent_refresh")


class TokenManager:
    """Holds the session's token and refreshes it once for all that need it.

        >>> manager = TokenManager(
        ...     RefreshTokenGrant("https://auth.example.com/oauth2/token", client_id="report"),
        ...     store=MemoryStore(),
        ... )
        >>> manager.sign_in(Token("access", "refresh", expires_at=4_000_000_000))
        >>> manager.token()
        Token(access_token=***, refresh_token=***, expires_at=4000000000.0, ...)

    One manager serves any number of adapters, sessions and threads; every method is
    thread-safe. Two managers on one store are one session. A manager survives ``fork``, and
    pickles to one that reopens its store.

    ``refresh``
        A grant, or any callable ``refresh(token | None) -> Token`` (see
        :class:`~requests_silent_refresh.grants.protocol.Refresh`).
    ``store``
        Where the session is kept; ``None`` keeps it in memory only.
    ``wait_timeout``
        Seconds that a request waits for a refresh, including the store's lock and the save,
        before it raises ``RefreshTimeout``. The refresh itself goes on.
    ``refresh_ahead``
        The fraction of a token's lifetime before its expiry (5 minutes at most) from which
        on a refresh runs in the background; 0 turns that off, as does ``refuses_early``.
    ``on_session_expired``
        Called once when the session is over, with the ``SessionExpired``, in a daemon thread
        of its own and without any lock. All waiting requests go on with the token that it
        returns; ``None`` means that nobody signed in. It may call :meth:`sign_in`,
        :attr:`signed_in` and :attr:`stats`; a call that would wait for the callback itself
        raises ``RefreshFailed`` at once. It may be a grant that needs no sign-in (``JSONLogin``),
        which is called again later if it fails.
    ``sign_in_timeout``
        Seconds that the requests wait for that, 300 by default.
    ``sign_in_hint``
        What a person does to sign in; the message of a ``SessionExpired`` ends with it.
    ``on_refreshed``
        Called with the token that a refresh ended with, whether it was exchanged here or
        adopted from the store. It is called in the refresh's own thread, after the waiting
        requests went on; what it raises is logged.
    ``on_event``
        Called with a :class:`~requests_silent_refresh.manager.events.RefreshEvent`, in the
        same way; ``replayed`` comes in the request's own thread.
    ``clock``, ``monotonic``
        Return Unix time, and the time for backoff and latches, in seconds; for tests.

    Raises ``TypeError`` for an argument of a wrong kind (a class or a coroutine function as a
    callable, a path as ``store``), and ``ValueError`` for a time or a fraction out of range.
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
        self._arguments = {k: v for k, v in locals().items() if k != "self"}
        arguments.functions(refresh=refresh, clock=clock, monotonic=monotonic)
        check_stores(**arguments.given(store=store))
        arguments.seconds(wait_timeout=wait_timeout, sign_in_timeout=sign_in_timeout)
        arguments.fraction(refresh_ahead=refresh_ahead)
        arguments.instances(str, "a str", sign_in_hint=sign_in_hint)
        callbacks = {"on_session_expired": on_session_expired, "on_event": on_event}
        arguments.functions(**arguments.given(on_refreshed=on_refreshed, **callbacks))
        self._store = MemoryStore() if store is None else store
        store = guarded(self._store)
        self._sign_in_hint = sign_in_hint
        self._clock = clock
        self._queue = RefreshQueue(wait_timeout, clock, monotonic)
        self._stored = StoredSession(
            store,
            self._queue,
            0 if getattr(refresh, "refuses_early", False) else refresh_ahead,
            clock,
            getattr(refresh, "needs_refresh_token", False),
            getattr(refresh, "identity", None),
        )
        self._announcer = Announcer(on_refreshed, on_event)
        self._refresher = Refresher(
            refresh, store, self._queue, self._stored, self._announcer, clock
        )
        sign_in_again = None
        if on_session_expired is not None:
            sign_in_again = SignInAgain(
                on_session_expired, sign_in_timeout, self._queue, self._stored
            )
        self._worker = Worker(
            self._queue, self._stored, self._refresher, sign_in_again, self._announcer
        )
        self._look = Look(store, self._stored, self._queue, clock, monotonic)
        self._uploads = Uploads()
        self.futility = FutilityGuard(monotonic)

    # -- for requests ----------------------------------------------------------

    def token(self) -> Token:
        """Return a fresh token, refreshing it first if needed.

        A fresh token takes no lock and no system call but the clock's; once in each
        ``store.look_interval`` a call waits up to 0.2 s for a look at the store. A token near
        its expiry is returned while its refresh begins in the background. Otherwise blocks for at
        most ``wait_timeout`` seconds, or ``sign_in_timeout`` for a sign-in. Raises
        ``SessionExpired``, ``RefreshFailed``, ``RefreshUnavailable``, ``RefreshTimeout`` or
        ``StoreError``.
        """
        return self.usable_token() or self.renew(None)

    def usable_token(self) -> Token | None:
        """Return what :meth:`token` returns without waiting; ``None`` if it would refresh first.

        For callers that limit how many refreshes a request triggers. Raises ``StoreError`` if
        the store has not been read before and cannot be read.
        """
        current, now = self._queue.current, self._clock()
        if now < current.due_at and now < self._stored.look_at:
            return current.token
        current, now = self._looked_at(), self._clock()
        if current.token is None or now >= current.wait_at:
            return None
        if now >= current.due_at and not self._uploads.under_way:
            self.start_refresh(current.token)
        return current.token

    def begin_upload(self) -> Upload:
        """Return a token for a request whose body cannot be sent again (P15).

        Waits for a refresh that is under way, and for one that is due, unless another upload
        is under way, whose token it might end. If the refresh fails, a token that is still
        valid is returned (P7). Until :meth:`end_upload` no refresh begins that can wait.
        Blocks and raises as :meth:`token` does.
        """
        current = self._looked_at()
        token, now = current.token, self._clock()
        if token is not None and now < current.wait_at and not self._queue.is_replacing(current):
            # With none under way, a refresh that is due goes first.
            is_due = now >= current.due_at
            upload = self._uploads.join(token) if is_due else self._uploads.begin(token)
            if upload is not None:
                return upload
        try:
            token = self.renew(token)
        except SilentRefreshError:
            if token is None or self._clock() >= current.expires_at:
                raise
        return self._uploads.begin(token)

    def end_upload(self, upload: Upload) -> None:
        """Note that an upload is over: its response came, or none will."""
        self._uploads.end(upload)

    def _looked_at(self) -> Current:
        """Return what is current, after a look at the store if one is due (P17)."""
        current = self._queue.current
        if current is NOT_LOADED:
            return self._first_look()
        return current if current.token is None else self._look.aside()

    def _first_look(self) -> Current:
        """Read the store for the first time; a grant that needs nothing from it may go without."""
        try:
            return self._look.adopt_stored(self._queue.wait_timeout, seen=NOT_LOADED)
        except StoreUnavailable as trouble:
            if self._refresher.rotates or self._refresher.needs_sign_in:
                raise
            logger.warning("going on without the store: %s", trouble)
            return NOT_LOADED

    def renew(self, rejected: Token | None) -> Token:
        """Return a token other than ``rejected``, which the server did not accept (P3).

        ``rejected`` is the very object that the failed request carried; if it has been
        replaced meanwhile, nothing is refreshed. ``None`` asks for any fresh token. Blocks
        and raises as :meth:`token` does.
        """
        if self._queue.current is NOT_LOADED:
            self._first_look()
        if self._queue.is_dead:
            self._look.now_and_then(self._queue.wait_timeout)
        try:
            return self._queue.renew(rejected, self._worker.lead)
        except SessionExpired as expired:  # this caller's own object
            expired.args = (f"{expired}; {self._sign_in_hint}",)
            raise

    def start_refresh(self, token: Token) -> None:
        """Begin a refresh of ``token`` in the background, unless it was replaced already (P3).

        Does not block, and raises nothing if the refresh fails. Does nothing while a refresh
        is under way or has just failed.
        """
        batch = self._queue.open_if_idle(replacing=token)
        if batch is not None:
            self._worker.lead_in_background(batch)

    def may_renew(self, rejected: Token, path: str) -> bool:
        """Say whether :meth:`renew` may be called because ``path`` rejected ``rejected``.

        ``False`` if refreshing has not helped lately, or cannot be done, because there is no
        refresh token. If the token was replaced already, :meth:`renew` costs no exchange and
        may always be called.
        """
        is_final = self._stored.is_final(rejected)
        if is_final and self._queue.current.token is rejected:
            self._look.now_and_then(self._queue.wait_timeout)
        if self._queue.current.token is not rejected:
            return True
        return not is_final and self.futility.allows(path, rejected)

    # -- for people -------------------------------------------------------------

    @property
    def signed_in(self) -> bool:
        """Whether there is a session, here or in the store (P9).

        Reads the store, and takes no lock that an exchange holds. Blocks for at most
        ``wait_timeout`` seconds. Raises ``StoreError`` if the store cannot be read.
        """
        return self._look.adopt_stored(self._queue.wait_timeout).token is not None

    def sign_in(self, token: Token | Mapping[str, Any] | str) -> None:
        """Start a session with ``token``, replacing any other; waiting requests go on with it.

        A mapping is the answer of a token endpoint, or what another library kept (see
        :meth:`Token.from_response`). A ``str`` is a refresh token alone, which is exchanged
        at the first use. Never waits for an exchange; the result of one under way is
        dropped. Raises ``ValueError`` if there is no usable token, and ``StoreError`` if it
        cannot be saved; nothing has changed then.
        """
        if isinstance(token, str):
            token = MaskedDict(refresh_token=token)
        if not isinstance(token, Token):
            token = self._refresher.read_token(token)
        self._stored.sign_in(token)
        logger.info("signed in")

    def sign_out(self) -> None:
        """End the session: revoke its tokens at the server (RFC 7009), then wipe the store.

        The store is wiped even if the revocation fails, which blocks for at most the grant's
        ``timeout``. The result of an exchange under way is dropped and revoked. Nobody is
        asked to sign in because of a sign-out, and requests that wait for a sign-in fail at
        once. Raises ``StoreError`` if the store cannot be changed; the session is over in
        this process all the same.
        """
        with self._queue.sign_out(ends_session=self._refresher.needs_sign_in):
            self._stored.sign_out(self._refresher.revoke)
        logger.info("signed out")

    def finish(self, timeout: float = 40.0) -> bool:
        """Wait until no refresh is under way, and every granted token is saved.

        For programs that leave without Python's exit handlers or stop for a while: call it
        before ``os._exit``, ``os.execv``, a fork into the background, or the end of an
        invocation that freezes the process. Does not wait for a person who is asked to sign
        in, and keeps no later request from refreshing. Blocks for at most ``timeout``
        seconds, plus one attempt to save and 2 s for callbacks that are told of a refresh.
        Returns whether everything is done; does not wait in a callback of a refresh.
        """
        return self._worker.finish(timeout)

    def take_over(self) -> None:
        """Let a forked child go on with the parent's session, for a program that daemonises.

        Needed on a store that processes do not share (``MemoryStore``), where a child uses
        the access token but does not refresh: the refresh token is the parent's to spend.
        Call it in the child, after :meth:`finish` in the parent, which must not refresh any
        more. Does not block.
        """
        self._stored.is_copy = False

    @property
    def is_idle(self) -> bool:
        """Whether no refresh is under way or waited for, and every granted token is saved."""
        return self._worker.is_idle

    @property
    def stats(self) -> Stats:
        """The counters so far, as an immutable snapshot."""
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
        return f"TokenManager({name_of(self._arguments['refresh'])}, store={name_of(self._store)})"

    def __copy__(self) -> TokenManager:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenManager:
        return self  # a copy of a session refreshes through the same queue

    def __reduce__(self) -> Any:
        # Reopens the store. A grant or store with a literal secret refuses to be pickled.
        if isinstance(self._store, MemoryStore) and self._refresher.needs_sign_in:
            return self._store.__reduce_ex__(2)
        return functools.partial(TokenManager, **self._arguments), ()
