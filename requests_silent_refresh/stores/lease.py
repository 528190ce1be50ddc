"""``LeasedStore``: the base of the stores on an engine, whose exclusive lock is a lease."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from typing import Any

from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..keys import KDFParameters, Keys, KeySource
from ..system.forking import reset_in_child
from .contract import Hold, LockLost, State, TokenStore, must_write
from .engine import NOTHING, Engine, Held, LeftAlone, Row, Seen
from .envelope import Envelope, seal, unseal

# Seconds between two attempts to get a lease; random, so that hosts do not act in step.
_SHORTEST, _LONGEST = 0.010, 0.100


class LeasedStore(TokenStore):
    """A session in a row of an engine that many hosts share. Thread-safe.

    The row holds lineage, generation, the key's identifier, the encrypted state and the *lease*:
    its owner (a random name for each hold) and the time at which it expires, by the engine's
    clock. That time is never compared with another clock, so the clocks of the hosts need not
    agree.

    An engine cannot free the lock of a dead process, as a kernel does, so a lease that is not
    released expires. Its length:

    - ``exclusive`` takes the lease for :attr:`take` seconds, to read the state.
    - ``begin``, the last step before the refresh token is sent, checks that the lease is still
      held and the state unchanged. It sets the lease to the exchange's total timeout plus
      :attr:`margin`. The lease is not renewed during the exchange, because a holder that hangs
      must lose it.
    - ``still_held``, called right before the token is sent, returns False if more than half of
      the margin has passed since ``begin``, by this machine's clock. A grant sends nothing after
      its timeout, so nothing is sent after the lease.
    - The save of the new state ends the lease in the same step. If the answer is lost, it is
      unknown whether the state was saved, and another process may refresh it. The lease then
      counts as lost (``still_held``), and the token is used but not refreshed.
    - ``extend`` is called only while a granted token could not be saved (P4). It takes the lease
      again for as long as ``begin`` did, if the state has not changed.

    If a holder is stopped (SIGSTOP, a paused container) until its lease has expired, and another
    process refreshes meanwhile:

    ==========================  ==================================================
    it was stopped              when it continues
    ==========================  ==================================================
    before or after its load    ``begin`` raises :class:`LockLost`: it starts over,
                                finds the newer state and adopts it
    after ``begin``             ``still_held`` returns False: the same
    with the exchange sent      both have sent the same refresh token. With a grace
                                period both are granted; the first save succeeds,
                                the second gets ``StateMoved`` and adopts. Without
                                one the session is lost, in this case only: the
                                server had granted a token that was never saved
    after the answer            the same. A save does not require the lease, so
                                losing the lease never loses the newest token
    after the save              it only releases the lease, if it is still its own
    ==========================  ==================================================

    If a holder is killed, the others wait until its lease expires. The mark that ``begin`` left
    tells the next holder (``Hold.interrupted_at``) and stays until the state changes.

    An engine that fails over to a replica without the last steps loses leases too, so two
    exchanges may run at once. A manager that knows the newest state saves it back: it never
    adopts its own lineage at a lower generation.

    After a ``fork``, the child has neither the connections of its parent nor its leases.
    """

    #: Length of the lease, in seconds, from taking it until the exchange begins.
    take = 10.0
    #: Seconds that the lease lasts longer than the exchange's own timeout.
    margin = 10.0

    def __init__(self, engine: Engine, name: str, source: KeySource) -> None:
        self.name = name
        self._engine = engine
        self._source = source
        self._keys = Keys(source)
        # The same bytes are the same state, so an unchanged row is not decrypted again.
        self._last_read: tuple[bytes, State] | None = None
        self._kdf: KDFParameters | None = None
        self._begun: Lease | None = None
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the connections and the lease to the parent."""
        self._begun = None
        self._engine.after_fork_in_child()

    def load(self) -> State | None:
        row = self._engine.ask(self._engine.read)
        return None if row is None else self._open(row)

    def replace(self, new: State, after: State | None) -> None:
        # A sign-in reads first, because an unreadable state must not be overwritten.
        stored = self.load() if after is None else after
        while must_write(new, after, stored):
            if self._put(new, stored):
                return
            stored = self.load()

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        deadline = time.monotonic() + timeout
        owner = secrets.token_hex(16)
        while True:
            left = deadline - time.monotonic()
            pause = random.uniform(_SHORTEST, _LONGEST)  # noqa: S311 (no secret)
            asked_at = steady()
            try:
                answer = self._take(owner, after, left)
            except StoreUnavailable as error:
                # Wait for an engine that is down as for a lease.
                if left <= 0:
                    raise
                if isinstance(error, LeftAlone):
                    owner = secrets.token_hex(16)  # a late lease of the old one is released
            else:
                if answer is True:
                    return Lease(self, owner, asked_at)
                if answer is False:
                    return None
                if left <= 0:
                    raise self._held_too_long(answer.holder, timeout)
                pause = min(pause, answer.seconds_left)
            time.sleep(max(0.0, min(pause, left)))

    def close(self) -> None:
        self._last_read = None
        self._engine.disconnect()

    def rotate_key(self) -> str | None:
        """Encrypt the stored state with the first key, and return that key's identifier.

        Does not wait for an exchange or affect the session. Returns ``None`` if nothing
        is stored. Raises the same exceptions as :meth:`replace`.
        """
        while True:
            state = self.load()
            if state is None:
                return None
            row = self._seal(state, None)
            if self._write(row, row.seen):
                return row.key_id

    def reset(self) -> str | None:
        """Rename the row so that a new sign-in is possible, and return its new name.

        Use this if the key is lost or the state is corrupt; no other method abandons such a
        state. Returns ``None`` if nothing was stored. The session is not revoked.
        """
        self._last_read = None
        aside = f"{self.name[:150]}.quarantine.{time.time_ns()}"
        return aside if self._engine.ask(lambda: self._engine.set_aside(aside)) else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._engine)!r}, {self.name!r})"

    def __reduce__(self) -> Any:
        return type(self), (self._engine.for_pickle(), self.name, self._source)

    def _take(self, owner: str, after: State | None, left: float) -> Held | bool:
        seen = _seen(after) if after is not None else None
        return self._engine.ask(
            lambda: self._engine.take(owner, _this_process(), self.take, seen),
            patience=min(self._engine.patience, max(left, 1.0)),
            late=lambda answer: answer is True and self._engine.release(owner),
        )

    def _held_too_long(self, holder: str | None, timeout: float) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self!r} has been locked by {holder or 'somebody else'} for longer than "
            f"{timeout:g} s: try again later, or look at what that process is doing",
            holder=holder or "somebody else",
        )

    def _put(self, new: State, stored: State | None) -> bool:
        self._last_read = None
        begun = self._begun
        lease = begun if begun is not None and begun.is_for(new) else None
        row = self._seal(new, self._kdf)
        if lease is None:
            return self._write(row, _seen(stored))
        lease.doubt()
        written = self._write(row, _seen(stored), lease.owner)
        if written:
            lease.given_back()
        return written

    def _write(self, row: Row, seen: Seen, owner: str = "") -> bool:
        return self._engine.ask(lambda: self._engine.write(row, seen, owner))

    def _seal(self, state: State, kdf: KDFParameters | None) -> Row:
        cipher = self._keys.encrypting(kdf)
        self._kdf = cipher.kdf
        content = seal(state, cipher, self.name).to_bytes()
        return Row(state.lineage, state.generation, cipher.key_id, content)

    def _open(self, row: Row) -> State:
        last = self._last_read
        if last is not None and last[0] == row.content and _seen(last[1]) == row.seen:
            return last[1]
        try:
            envelope = Envelope.from_bytes(row.content)
            state = unseal(envelope, self._keys, self.name)
            if _seen(state) != row.seen:
                raise StoreCorrupted("the stored state was damaged: it is a mixture of two states")
        except StoreError as error:
            error.args = (f"{self!r}: {error}", *error.args[1:])
            raise
        self._last_read = (row.content, state)
        self._kdf = envelope.kdf
        return state


class Lease(Hold):
    """The exclusive lock of a ``LeasedStore``, until it expires.

    The owner's name is the only item of a list, so only one of two threads that
    release, or of a save and a release, can take it.
    """

    def __init__(self, store: LeasedStore, owner: str, asked_at: float) -> None:
        self._store = store
        self._engine = store._engine
        self._owners = [owner]
        self._good_until = asked_at + store.take / 2
        self._seconds = store.take
        self._begun: Seen | None = None
        self._keep_mark = False
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the lease to the parent."""
        self._owners = []
        self._good_until = float("-inf")

    @property
    def interrupted_at(self) -> float | None:  # type: ignore[override]  # read when needed
        """See :attr:`Hold.interrupted_at`. By the engine's clock; costs a round trip."""
        try:
            return self._engine.ask(lambda: self._engine.interrupted(self.owner))
        except StoreError:
            return None  # it only makes a message clearer

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        owner, seen, asked_at = self.owner, _seen(state), steady()
        seconds = self._seconds = exchange_timeout + self._store.margin
        if not owner or not self._engine.ask(lambda: self._engine.begin(owner, seen, seconds)):
            raise LockLost(
                f"the lease of {self._store!r} expired before the refresh began, perhaps because "
                "this process was stopped or the machine is overloaded: try again"
            )
        self._good_until = asked_at + self._store.margin / 2
        self._begun = seen
        self._store._begun = self

    def still_held(self) -> bool:
        return steady() < self._good_until

    def unanswered(self) -> None:
        self._keep_mark = True

    def extend(self) -> None:
        owner, seen, asked_at = self.owner, self._begun or NOTHING, steady()
        try:
            extended = self._engine.ask(
                lambda: self._engine.extend(owner, _this_process(), self._seconds, seen)
            )
        except StoreError:
            return  # the next save reports it
        if extended:
            self._good_until = asked_at + self._store.margin / 2

    def is_for(self, new: State) -> bool:
        """Return whether saving ``new`` ends this lease, because it was taken for that."""
        begun = self._begun
        return begun is not None and new.lineage == begun[0] and new.generation > begun[1]

    def doubt(self) -> None:
        """Treat the lease as lost until ``extend`` succeeds, because a save may end it."""
        self._good_until = float("-inf")

    def given_back(self) -> None:
        """Record that the engine has ended the lease."""
        self._owners = []

    def release(self) -> None:
        try:
            owner = self._owners.pop()
        except IndexError:
            return  # already released
        try:
            self._engine.ask(lambda: self._engine.release(owner, self._keep_mark))
        except StoreError:
            pass  # it expires

    @property
    def owner(self) -> str:
        """The owner's name; empty after the lease has ended."""
        owners = self._owners
        return owners[0] if owners else ""


def steady() -> float:
    """Return seconds by a clock that continues while the machine sleeps, if there is one.

    For durations only; hosts compare the engine's clock.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _seen(state: State | None) -> Seen:
    return NOTHING if state is None else (state.lineage, state.generation)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
