"""The stores' contract: the stored state, and compare-and-set."""

# ruff: noqa: S101 (a test suite uses assert)

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ..stores.contract import State, StateMoved, TokenStore
from ..token import Token
from .store_fixtures import ACCESS_TOKEN, PATIENCE, REFRESH_TOKEN, Neighbour, StoreFixtures, taken


class StateTests(StoreFixtures):
    """States are stored complete, and of two writers the later one is told."""

    def test_a_new_store_holds_nothing(self, store: TokenStore) -> None:
        """An empty store loads ``None`` without an error."""
        assert store.load() is None

    def test_every_field_comes_back(self, store: TokenStore) -> None:
        """P4: a reopened store loads every field as it was saved."""
        token = Token(
            ACCESS_TOKEN,
            REFRESH_TOKEN,
            expires_at=1800000000.5,
            issued_at=1700000000.25,
            token_type="DPoP",  # noqa: S106 (a token type)
            scope="read write",
            extra={"id_token": "é\u2028\U0001f600", "nested": {"list": [1, None, True]}},
        )
        saved = store.save(token, None)
        loaded = self.reopen(store).load()
        assert saved.is_same(loaded)
        assert _token(loaded).to_dict() == token.to_dict()

    def test_a_bare_token_comes_back(self, store: TokenStore) -> None:
        """A token without a refresh token and expiry (client credentials) is stored as it is."""
        store.save(Token("a"), None)
        loaded = _token(self.reopen(store).load())
        assert loaded.refresh_token is None
        assert loaded.expires_at is None

    def test_generations_grow_within_a_lineage(self, store: TokenStore, signed_in: State) -> None:
        """Each save keeps the lineage of the state before it and adds 1 to its generation."""
        second = store.save(Token("b"), signed_in)
        third = store.save(Token("c"), second)
        assert [s.generation for s in (signed_in, second, third)] == [1, 2, 3]
        assert {s.lineage for s in (signed_in, second, third)} == {signed_in.lineage}
        assert third.is_same(self.reopen(store).load())

    def test_a_sign_in_starts_a_lineage(self, store: TokenStore, signed_in: State) -> None:
        """A sign-in replaces any earlier session and starts a new lineage."""
        store.save(Token("b"), signed_in)
        anew = self.reopen(store).save(Token("c"), None)
        assert anew.lineage != signed_in.lineage
        assert anew.generation == 1
        assert anew.is_same(store.load())

    def test_sign_out_leaves_a_tombstone(self, store: TokenStore, signed_in: State) -> None:
        """P9: a sign-out is stored as a state of the next generation without a token."""
        gone = store.clear(signed_in)
        assert gone.token is None
        loaded = self.reopen(store).load()
        assert gone.is_same(loaded)
        assert loaded is not None
        assert loaded.token is None
        assert (gone.lineage, gone.generation) == (signed_in.lineage, 2)

    def test_a_sign_in_follows_a_sign_out(self, store: TokenStore, signed_in: State) -> None:
        """A sign-in after a sign-out is stored."""
        store.clear(signed_in)
        anew = store.save(Token("b"), None)
        assert anew.is_same(self.reopen(store).load())

    # Compare and set

    def test_a_late_save_is_told_the_newer_state(self, store: TokenStore, signed_in: State) -> None:
        """P1: a save after an outdated state changes nothing; its error has the stored state."""
        second = self.reopen(store).save(Token("b", "r2"), signed_in)
        with pytest.raises(StateMoved) as moved:
            store.save(Token("late"), signed_in)
        assert second.is_same(moved.value.state)
        assert _token(moved.value.state).access_token.reveal() == "b"
        assert second.is_same(store.load())

    def test_a_late_clear_is_told_the_newer_state(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P7: a refusal of a token that was already replaced does not wipe the new one."""
        second = self.reopen(store).save(Token("b"), signed_in)
        with pytest.raises(StateMoved) as moved:
            store.clear(signed_in)
        assert second.is_same(moved.value.state)
        assert second.is_same(store.load())

    def test_a_late_save_does_not_undo_a_sign_in(self, store: TokenStore, signed_in: State) -> None:
        """A sign-in during an exchange wins: generations of two lineages are not compared."""
        anew = self.reopen(store).save(Token("b"), None)
        assert anew.generation == signed_in.generation
        with pytest.raises(StateMoved) as moved:
            store.save(Token("late"), signed_in)
        assert anew.is_same(moved.value.state)

    def test_a_late_save_does_not_undo_a_sign_out(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """A sign-out during an exchange wins."""
        gone = self.reopen(store).clear(signed_in)
        with pytest.raises(StateMoved) as moved:
            store.save(Token("late"), signed_in)
        assert gone.is_same(moved.value.state)

    def test_saving_the_same_state_again_is_no_move(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P4: a save that succeeded but seemed to fail can be repeated."""
        new = signed_in.followed_by(Token("b", "r2"))
        store.replace(new, signed_in)
        store.replace(new, signed_in)
        assert new.is_same(store.load())

    def test_another_token_of_the_same_generation_is_a_move(
        self, store: TokenStore, signed_in: State
    ) -> None:
        """P1: of two results for the same generation only the first is stored."""
        store.replace(signed_in.followed_by(Token("b", "r2")), signed_in)
        with pytest.raises(StateMoved):
            store.replace(signed_in.followed_by(Token("c", "r3")), signed_in)

    def test_a_lost_generation_is_put_back(self, store: TokenStore, signed_in: State) -> None:
        """After a failover to an older state of the lineage, a newer one can be stored again."""
        newer = State(signed_in.lineage, signed_in.generation + 7, Token("newest"))
        store.replace(newer, store.load())
        assert newer.is_same(self.reopen(store).load())

    def test_a_generation_never_falls(self, store: TokenStore, signed_in: State) -> None:
        """Within a lineage, an older state never replaces a newer one."""
        second = store.save(Token("b"), signed_in)
        with pytest.raises(StateMoved):
            store.replace(signed_in, second)
        assert second.is_same(store.load())

    def test_of_many_savers_one_wins(self, store: TokenStore, signed_in: State) -> None:
        """P1: of eight simultaneous saves after one state, one is stored; seven get that state."""
        start = threading.Barrier(8)

        def save(number: int) -> tuple[bool, State | None]:
            mine = self.reopen(store)
            start.wait(PATIENCE)
            try:
                return True, mine.save(Token(f"token-{number}"), signed_in)
            except StateMoved as moved:
                return False, moved.state

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(save, range(8)))
        assert [won for won, _ in outcomes].count(True) == 1
        stored = store.load()
        assert stored is not None
        assert all(stored.is_same(state) for _, state in outcomes)

    def test_readers_never_see_halves(self, store: TokenStore, signed_in: State) -> None:
        """P5: while states of many sizes are saved, each load is complete and none goes back."""
        done = threading.Event()

        def read() -> int:
            mine = self.reopen(store)
            newest = 0
            while not done.is_set():
                state = mine.load()
                token = _token(state)
                assert state is not None
                assert state.generation >= newest
                newest = state.generation
                if newest > 1:
                    assert token.extra["size"] == len(token.extra["padding"])
                    assert token.access_token.reveal() == f"token-{newest}"
            return newest

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                state = signed_in
                for number in range(2, 32):
                    size = number * 997 % 20000
                    extra = {"size": size, "padding": "x" * size}
                    state = store.save(Token(f"token-{number}", extra=extra), state)
            finally:
                done.set()
            assert all(reader.result(PATIENCE) >= 1 for reader in readers)

    def test_killed_in_the_middle_of_a_save(self, store: TokenStore, signed_in: State) -> None:
        """P5: a writer that is killed at any moment leaves the old or the new state."""
        if not store.shared:
            pytest.skip("this store is not shared with other processes")
        newest = signed_in
        for _ in range(6):
            writer = Neighbour(self.opener(store))
            assert writer.tell("save-on") == "saving"
            seen = newest
            while seen.generation < newest.generation + 3:
                loaded = store.load()
                assert loaded is not None
                seen = loaded
            writer.kill()
            state = store.load()
            padding = _token(state).extra["p"]
            assert _token(state).access_token.reveal() == f"token-{len(padding)}"
            assert state is not None
            assert state.generation > newest.generation
            newest = state

    def test_no_secret_shows(self, store: TokenStore, signed_in: State) -> None:
        """P12: the store, its states and its holds print no token."""
        with taken(store, signed_in) as hold:
            hold.begin(signed_in)
            shown = f"{store!r} {store} {signed_in!r} {store.load()!r} {hold!r} {vars(store)!r}"
        assert ACCESS_TOKEN not in shown
        assert REFRESH_TOKEN not in shown

    def test_an_ended_session_is_forgotten(self, store: TokenStore) -> None:
        """P12: the store does not keep the tokens of an ended session in memory."""
        token = Token(ACCESS_TOKEN, REFRESH_TOKEN)
        store.save(token, None)
        state = store.load()
        assert state is not None
        kept: list[weakref.ref[Any]] = [weakref.ref(token), weakref.ref(state)]
        store.clear(state)
        del token, state
        gc.collect()
        assert [reference() for reference in kept] == [None, None]

    def test_no_token_is_pickled(self, store: TokenStore, signed_in: State) -> None:
        """P12: a pickled store contains no token."""
        store.load()
        try:
            pickled = pickle.dumps(store)
        except TypeError:
            return  # refused, which a store may do if it holds a secret
        assert ACCESS_TOKEN.encode() not in pickled
        assert REFRESH_TOKEN.encode() not in pickled


def _token(state: State | None) -> Token:
    """Return the token of ``state``, which must have one."""
    assert state is not None
    assert state.token is not None
    return state.token
