"""``LeasedStore``: what the stores on an engine share; their exclusive lock is a lease."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time

from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..keys import KDFParameters, Keys, KeySource
from ..system import private_files
from ..system.forking import reset_in_child
from .contract import Hold, LockLost, State, TokenStore, must_write
from .engine import NOTHING, Engine, Held, LeftAlone, Row, Seen
from .envelope import Envelope, seal, unseal

# Seconds between two looks at a lease that somebody else has; spread so that a fleet mixes.
_SHORTEST, _LONGEST = 0.010, 0.100


class LeasedStore(TokenStore):
    """A session in a row of an engine that many hosts share. Thread-safe.

    The row holds lineage, generation, the key's identifier, the encrypted state,
    and the *lease*: its owner (random, another one for each hold), and until when
    that owner has the exclusive lock, by the engine's clock. No other clock is
    ever compared with it, so hosts may disagree about the time as they like.

    A kernel frees the lock of a dead process; an engine cannot know, so a lease
    that is not given back runs out. How long it is, and why:

    - ``exclusive`` takes it for :attr:`take` seconds, for a look at the state.
    - ``begin``, the last step before the refresh token is sent, checks that it is
      still ours and the state still the same, and sets it to the exchange's own
      total timeout plus :attr:`margin`. Nothing renews it during the exchange: a
      holder that hangs must lose it.
    - Right before the sending, ``still_held`` asks this machine's own clock
      whether less than half the margin has passed since ``begin`` was asked. A
      grant sends nothing after its timeout; so nothing is sent after the lease.
    - The save of what the lease was taken for gives it back in the same step. If
      its answer is lost, nobody here knows whether it was done, and somebody else
      may refresh what was saved: the lease counts as lost (``still_held``), and
      the token is used but not refreshed.
    - ``extend`` is called only while a granted token could not be saved (P4), and
      takes it again for as long as ``begin`` did, if nothing has moved since.

    A holder that was stopped (SIGSTOP, a paused container) past its lease, while
    somebody else refreshed:

    ==========================  ==================================================
    it was stopped              and when it wakes
    ==========================  ==================================================
    before or after its load    ``begin`` says :class:`LockLost`: it starts over,
                                finds the newer state and adopts it
    after ``begin``             ``still_held`` says no: the same
    with the exchange sent      both have sent the same refresh token. With a grace
                                window both are granted; the first save stands, the
                                second is told ``StateMoved`` and adopts. Without
                                one the session is lost, and only then: the server
                                had granted what was never saved
    after the answer            the same. The lease is no condition of a save, so a
                                lost lease loses no token that is the newest
    after the save              only the release is left, which frees only its own
    ==========================  ==================================================

    A holder that was killed costs the others the rest of its lease. The mark that
    ``begin`` left tells the next one (``Hold.interrupted_at``) and stays until the
    state moves on.

    An engine that failed over to a copy without the last steps has lost leases,
    too, so two may exchange at once. The newest state is put back by whoever
    knows it: ``Keeper.reconcile`` never adopts its own lineage at a lower
    generation.

    ``fork``: a child has neither the connections of its parent nor its leases.
    """

    #: Seconds of a lease between taking it and the beginning of the exchange.
    take = 10.0
    #: Seconds of a lease beyond the exchange's own timeout.
    margin = 10.0

    def __init__(self, engine: Engine, name: str, source: KeySource) -> None:
        self.name = name
        self._engine = engine
        self._source = source
        self._keys = Keys(source)
        # The same bytes are the same state: who only looks whether it moved need not decrypt.
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
        # A sign-in looks first: what cannot be read is never overwritten.
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
                # An engine that is down is waited for like a lease.
                if left <= 0:
                    raise
                if isinstance(error, LeftAlone):
                    owner = secrets.token_hex(16)  # what the old one gets after all is given back
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
        """Encrypt what is stored with the first key, and return that key's identifier.

        The session goes on undisturbed; no exchange is waited for. ``None`` with
        nothing stored. Raises as :meth:`replace` does.
        """
        while True:
            state = self.load()
            if state is None:
                return None
            row = self._seal(state, None)
            if self._write(row, row.seen):
                return row.key_id

    def reset(self) -> str | None:
        """Move what is stored aside for a new start, and return the name it has now.

        For a session whose key is lost or that is corrupt; nothing else ever
        gives it up. ``None`` where nothing was stored. The session that may be in
        it is not revoked.
        """
        self._last_read = None
        aside = f"{self.name[:150]}.quarantine.{time.time_ns()}"
        return aside if self._engine.ask(lambda: self._engine.set_aside(aside)) else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._engine)!r}, {self.name!r})"

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
        if len(content) > private_files.SIZE_LIMIT:
            raise StoreError(f"a token of {len(content)} bytes is too large to be stored")
        return Row(state.lineage, state.generation, cipher.key_id, content)

    def _open(self, row: Row) -> State:
        last = self._last_read
        if last is not None and last[0] == row.content and _seen(last[1]) == row.seen:
            return last[1]
        try:
            envelope = Envelope.from_bytes(row.content)
            state = unseal(envelope, self._keys, self.name)
            if _seen(state) != row.seen:
                raise StoreCorrupted("what is stored there was damaged: two states are mixed in it")
        except StoreError as error:
            error.args = (f"{self!r}: {error}", *error.args[1:])
            raise
        self._last_read = (row.content, state)
        self._kdf = envelope.kdf
        return state


class Lease(Hold):
    """The exclusive lock of a ``LeasedStore``, until it runs out.

    The owner's name is a list's only item, which two threads that release, or a
    save and a release, cannot both take.
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
    def interrupted_at(self) -> float | None:  # type: ignore[override]  # asked for when needed
        """As :attr:`Hold.interrupted_at`, by the engine's clock; costs a round trip."""
        try:
            return self._engine.ask(lambda: self._engine.interrupted(self.owner))
        except StoreError:
            return None  # it only makes a message clearer

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        owner, seen, asked_at = self.owner, _seen(state), steady()
        seconds = self._seconds = exchange_timeout + self._store.margin
        if not owner or not self._engine.ask(lambda: self._engine.begin(owner, seen, seconds)):
            raise LockLost(
                f"the lease of {self._store!r} ran out before the refresh began: was this process "
                "stopped, or the machine overloaded? Try again"
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
            return  # the save that follows says so itself
        if extended:
            self._good_until = asked_at + self._store.margin / 2

    def is_for(self, new: State) -> bool:
        """Say whether ``new`` is what this lease was taken for: its save gives the lease back."""
        begun = self._begun
        return begun is not None and new.lineage == begun[0] and new.generation > begun[1]

    def doubt(self) -> None:
        """Take the lease for lost until ``extend`` has it again: it may end with a save."""
        self._good_until = float("-inf")

    def given_back(self) -> None:
        """Note that the engine has ended the lease."""
        self._owners = []

    def release(self) -> None:
        try:
            owner = self._owners.pop()
        except IndexError:
            return  # released before
        try:
            self._engine.ask(lambda: self._engine.release(owner, self._keep_mark))
        except StoreError:
            pass  # it runs out

    @property
    def owner(self) -> str:
        """The owner's name; empty once the lease was given back."""
        owners = self._owners
        return owners[0] if owners else ""


def steady() -> float:
    """Return seconds by a clock that goes on while the machine sleeps, where there is one.

    For durations only; what hosts compare is the engine's clock.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _seen(state: State | None) -> Seen:
    return NOTHING if state is None else (state.lineage, state.generation)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
