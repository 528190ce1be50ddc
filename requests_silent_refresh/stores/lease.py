"""``LeasedStore``: the base of the stores on an engine, whose exclusive lock is a lease."""

from __future__ import annotations

import random
import time
from typing import Any

from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..keys import KDFParameters, Keys, KeySource
from ..system.forking import reset_in_child
from .contract import Hold, State, TokenStore, must_write
from .engine import Engine, Held, Row, Seen
from .envelope import Envelope, seal, unseal
from .lease_hold import Lease, Leases, seen_of

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
        self._leases = Leases(engine)
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""
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
        lease = Lease(self._leases, self.take, self.margin)
        try:
            if self._wait_for(lease, timeout, after):
                return lease
        except BaseException:
            lease.release()
            raise
        lease.release()
        return None

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

    def _wait_for(self, lease: Lease, timeout: float, after: State | None) -> bool:
        """Take ``lease``. Returns False as soon as the stored state is not ``after``."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            pause = random.uniform(_SHORTEST, _LONGEST)  # noqa: S311 (no secret)
            try:
                answer = lease.take(after, left)
            except StoreUnavailable:
                # Wait for an engine that is down as for a lease.
                if left <= 0:
                    raise
            else:
                if not isinstance(answer, Held):
                    return answer
                if left <= 0:
                    raise self._held_too_long(answer.holder, timeout)
                pause = min(pause, answer.seconds_left)
            time.sleep(max(0.0, min(pause, left)))

    def _held_too_long(self, holder: str | None, timeout: float) -> StoreUnavailable:
        # The row is not authenticated, so what it says may be anything.
        told = "".join(c if c.isprintable() else "?" for c in holder or "somebody else")[:200]
        return StoreUnavailable(
            f"{self!r} has been locked by {told} for longer than {timeout:g} s: try again later, "
            "or look at what that process is doing",
            holder=told,
        )

    def _put(self, new: State, stored: State | None) -> bool:
        self._last_read = None
        begun = self._leases.begun
        lease = begun if begun is not None and begun.is_for(new) else None
        row = self._seal(new, self._kdf)
        if lease is None:
            return self._write(row, seen_of(stored))
        lease.doubt()
        written = self._write(row, seen_of(stored), lease.owner)
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
        if last is not None and last[0] == row.content and seen_of(last[1]) == row.seen:
            return last[1]
        try:
            envelope = Envelope.from_bytes(row.content)
            state = unseal(envelope, self._keys, self.name)
            if seen_of(state) != row.seen:
                raise StoreCorrupted("the stored state was damaged: it is a mixture of two states")
        except StoreError as error:
            error.args = (f"{self!r}: {error}", *error.args[1:])
            raise
        self._last_read = (row.content, state)
        self._kdf = envelope.kdf
        return state
