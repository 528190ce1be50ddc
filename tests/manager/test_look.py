"""Reading the store for requests: what holds it up, and what it finds (P8, P9, P17)."""

from __future__ import annotations

import threading

import pytest
from queue_kit import Crowd, outcome_of

from requests_silent_refresh import (
    MemoryStore,
    RefreshFailed,
    StoreUnavailable,
    Token,
    TokenManager,
)


class Slow(MemoryStore):
    """A store that does not answer while ``held`` is not set; counts how often it is read."""

    def __init__(self, token=None):
        super().__init__()
        self.held, self.read, self.loads = threading.Event(), threading.Event(), 0
        self.held.set()
        if token is not None:
            self.save(token, after=None)

    def load(self):
        self.loads += 1
        self.read.set()
        assert self.held.wait(60)
        return super().load()


@pytest.fixture
def no_look_threads(monkeypatch):
    """Let no thread start that reads the store."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-look":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_first_read_without_a_thread_holds_up_nobody_else(no_look_threads):
    """P8: it runs in one request; the others wait for ``wait_timeout``, not for its lock."""
    store = Slow(Token("kept", "refresh"))
    store.held.clear()
    manager = TokenManager(lambda token: pytest.fail("refreshed"), store, wait_timeout=0.2)
    first = Crowd(manager.token, size=1)
    assert store.read.wait(10)
    others = Crowd(lambda: outcome_of(manager.token), size=4)
    assert {type(outcome) for outcome in others.outcomes(10)} == {StoreUnavailable}
    store.held.set()
    (token,) = first.outcomes()
    assert token.access_token.reveal() == "kept"
    assert store.loads == 1


class Asking(MemoryStore):
    """A store that makes one call, ``ask``, when it is read, and keeps the outcome."""

    ask = None
    answer = None

    def load(self):
        ask, self.ask = self.ask, None
        if ask is not None:
            self.answer = outcome_of(ask)
        return super().load()


@pytest.mark.parametrize("call", ["token", "signed_in", "renew"])
def test_a_store_that_asks_for_its_own_token(call):
    """P8: its thread would wait for itself, so it gets an error at once, and nothing is sent."""
    exchanged, store = [], Asking()
    manager = TokenManager(exchanged.append, store, wait_timeout=60)
    store.save(Token("kept", "refresh"), after=None)
    if call == "renew":  # of a session that has been read before
        kept = manager.token()
        store.ask = lambda: manager.renew(kept)
    else:
        store.ask = lambda: manager.token() if call == "token" else manager.signed_in
    assert Crowd(lambda: manager.signed_in, size=1).outcomes(10) == [True]
    assert type(store.answer) is RefreshFailed
    assert "would wait for itself" in str(store.answer)
    assert exchanged == []
