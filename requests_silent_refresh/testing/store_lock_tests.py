"""The stores' contract: the exclusive lock, between threads and between processes."""

# ruff: noqa: S101 (a test suite uses assert)

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..errors import StoreUnavailable
from ..stores.contract import State, StateMoved, TokenStore
from ..token import Token
from .store_fixtures import ACCESS_TOKEN, PATIENCE, Neighbour, StoreFixtures, taken


class LockTests(StoreFixtures):
    """One holder refreshes; the others wait, and stop waiting once the state has changed."""

    def test_the_exclusive_lock_excludes(self, store: TokenStore, signed_in: State) -> None:
        """P1: a second caller gets the lock only after the first has released it."""
        other = self.reopen(store)
        with taken(store, signed_in), pytest.raises(StoreUnavailable):
            other.exclusive(0.0, signed_in)
        taken(other, signed_in).release()

    def test_threads_take_turns(self, store: TokenStore, signed_in: State) -> None:
        """P1: eight threads never hold the lock together, whether they share the store or not."""
        inside = threading.Semaphore(1)
        collisions: list[int] = []

        def enter(number: int) -> None:
            mine = store if number % 2 else self.reopen(store)
            with taken(mine, signed_in):
                if not inside.acquire(blocking=False):
                    collisions.append(number)
                    return
                assert signed_in.is_same(mine.load())
                inside.release()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(enter, range(8)))
        assert not collisions

    def test_a_waiter_gives_up(self, store: TokenStore, signed_in: State) -> None:
        """P8: a wait for the lock ends with ``StoreUnavailable`` after its timeout."""
        with taken(store, signed_in):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable) as unavailable:
                self.reopen(store).exclusive(0.1, signed_in)
            assert 0.1 <= time.monotonic() - started < PATIENCE
            assert unavailable.value.holder is None or unavailable.value.holder.strip()

    def test_a_waiter_leaves_when_the_state_moves(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P1: threads waiting to refresh a state return without the lock once it is refreshed."""
        with taken(store, signed_in), ThreadPoolExecutor(2) as pool:
            waiters = [
                pool.submit(self.reopen(store).exclusive, PATIENCE, signed_in) for _ in range(2)
            ]
            store.save(Token("b"), signed_in)
            # The lock is still held, so only the new state can have ended the waits.
            assert [waiter.result(PATIENCE) for waiter in waiters] == [None, None]

    def test_a_waiter_is_not_given_the_lock_for_an_old_state(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P1: a thread that waits during a save and a release never gets the lock afterwards."""
        state = signed_in
        with ThreadPoolExecutor(1) as pool:
            for number in range(20):
                with taken(store, state):
                    waiter = pool.submit(self.reopen(store).exclusive, PATIENCE, state)
                    moved = store.save(Token(f"token-{number}"), state)
                assert waiter.result(PATIENCE) is None
                state = moved

    def test_a_free_lock_is_not_given_for_an_old_state(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P3: ``exclusive`` for an outdated state returns ``None``, and the lock stays free."""
        store.save(Token("b"), signed_in)
        assert self.reopen(store).exclusive(0.0, signed_in) is None
        taken(store, None).release()

    def test_the_lock_alone(self, store: TokenStore) -> None:
        """With ``after=None`` the lock is taken whatever is stored, even nothing."""
        with taken(store, None) as hold:
            assert hold.interrupted_at is None

    def test_another_thread_may_release(self, store: TokenStore, signed_in: State) -> None:
        """P5: a thread other than the one that took the lock may release it."""
        hold = taken(store, signed_in)
        thread = threading.Thread(target=hold.release)
        thread.start()
        thread.join(PATIENCE)
        taken(self.reopen(store), signed_in).release()

    def test_releasing_twice_frees_nobody_elses_lock(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P1: a second release of a hold does not release the lock of the next holder."""
        first = taken(store, signed_in)
        first.release()
        second = taken(self.reopen(store), signed_in)
        first.release()
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0, signed_in)
        second.release()

    def test_a_refresh_from_begin_to_release(self, store: TokenStore, signed_in: State) -> None:
        """P4: after begin, save and release, the next holder sees the new state, uninterrupted."""
        with taken(store, signed_in) as hold:
            hold.begin(signed_in)
            hold.extend()
            second = store.save(Token("b", "r2"), signed_in)
        assert second.is_same(self.reopen(store).load())
        with taken(self.reopen(store), second) as hold:
            assert hold.interrupted_at is None

    def test_a_refresh_that_fails(self, store: TokenStore, signed_in: State) -> None:
        """P7: begin and release without a save change nothing and report no interruption."""
        for _ in range(2):
            with taken(store, signed_in) as hold:
                hold.begin(signed_in)
        with taken(self.reopen(store), signed_in) as hold:
            assert hold.interrupted_at is None
        assert signed_in.is_same(store.load())

    def test_a_sign_in_does_not_wait_for_an_exchange(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P10: a sign-in during a refresh is stored; the refresh's late result is not."""
        with taken(store, signed_in) as hold:
            hold.begin(signed_in)
            anew = self.reopen(store).save(Token("anew"), None)
            with pytest.raises(StateMoved) as moved:
                store.save(Token("late"), signed_in)
            assert anew.is_same(moved.value.state)
        with taken(store, anew) as hold:
            assert hold.interrupted_at is None
        assert anew.is_same(self.reopen(store).load())

    def test_a_sign_out_does_not_wait_for_an_exchange(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """A sign-out during a refresh is stored; the refresh's late result is not."""
        with taken(store, signed_in) as hold:
            hold.begin(signed_in)
            gone = self.reopen(store).clear(signed_in)
            with pytest.raises(StateMoved):
                store.save(Token("late"), signed_in)
        assert gone.is_same(store.load())

    def test_processes_see_one_state(
        self, store: TokenStore, signed_in: State, neighbour: Neighbour
    ) -> None:
        """P1: each process loads what the other saved, and an outdated save is refused."""
        assert neighbour.tell("load") == f"{signed_in.lineage} 1 {ACCESS_TOKEN}"
        assert neighbour.tell("save theirs") == "2"
        with pytest.raises(StateMoved):
            store.save(Token("mine"), signed_in)
        state = store.load()
        assert state is not None
        store.save(Token("after-theirs"), state)
        assert neighbour.tell("load") == f"{signed_in.lineage} 3 after-theirs"

    def test_the_exclusive_lock_excludes_processes(
        self, store: TokenStore, signed_in: State, neighbour: Neighbour
    ) -> None:
        """P1: a lock held by another process can be taken only after its release."""
        assert neighbour.tell("hold 5 begin") == "held"
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0, signed_in)
        assert neighbour.tell("release") == "released"
        taken(store, signed_in).release()

    def test_a_waiter_leaves_when_another_process_moves_the_state(
        self, store: TokenStore, signed_in: State, neighbour: Neighbour
    ) -> None:
        """P1: a waiting thread returns without the lock once the other process has refreshed."""
        assert neighbour.tell("hold 5 begin") == "held"
        with ThreadPoolExecutor(1) as pool:
            waiter = pool.submit(store.exclusive, PATIENCE, signed_in)
            assert neighbour.tell("save theirs") == "2"
            assert waiter.result(PATIENCE) is None
        neighbour.tell("release")

    def test_the_lock_of_a_killed_holder_is_freed(
        self, store: TokenStore, signed_in: State, neighbour: Neighbour
    ) -> None:
        """P5: a lock is free soon after its holder was killed, or when its lease has expired."""
        assert neighbour.tell("hold 5") == "held"
        neighbour.kill()
        taken(store, signed_in).release()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_does_not_release_the_lock(
        self, store: TokenStore, signed_in: State, neighbour: Neighbour
    ) -> None:
        """P1: the lock stays with the process that took it, whatever a child of it does."""
        assert neighbour.tell("hold 5 begin") == "held"
        assert neighbour.tell("fork") == "child ended with 0"
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.0, signed_in)
        assert neighbour.tell("release") == "released"
        taken(store, signed_in).release()

    def test_the_lock_lasts_as_long_as_the_exchange(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P1: after ``begin`` a lease does not end before the exchange may have ended."""
        with taken(store, signed_in) as hold:
            hold.begin(signed_in, self.watched)
            with pytest.raises(StoreUnavailable):
                self.reopen(store).exclusive(self.watched, signed_in)
