"""``Accounts``: one manager for each name, made once, kept while it is busy, and forgotten."""

from __future__ import annotations

import gc
import os
import pickle
import threading

import pytest
from wire import at_once, manager_of

from requests_silent_refresh import Accounts, MemoryStore, StoreUnavailable, Token, TokenManager


def unconnected(name):
    """Make a manager that is signed in as ``name``; it never refreshes."""
    manager = TokenManager(lambda token: token, store=MemoryStore())
    manager.sign_in(Token(name))
    return manager


def test_each_name_has_one_manager():
    """Accounts: the same object for the same name, and another one for another name."""
    accounts = Accounts(unconnected)
    assert accounts["a"] is accounts["a"]
    assert accounts["a"].token().access_token.reveal() == "a"
    assert accounts["b"].token().access_token.reveal() == "b"
    assert len(accounts) == 2
    assert repr(accounts) == "<Accounts: 2 of at most 1000>"


def test_threads_that_ask_at_once_share_one_manager():
    """P1: ``make`` is called once for each name, however many threads need it first."""
    made = []

    def make(name):
        made.append(name)
        barrier.wait(10)  # so that both names are being made at the same time
        return unconnected(name)

    barrier = threading.Barrier(2)
    accounts = Accounts(make)
    managers = at_once(32, lambda number: accounts["ab"[number % 2]])
    assert sorted(made) == ["a", "b"]
    assert len({id(manager) for manager in managers}) == 2


def test_the_least_recently_used_managers_are_forgotten():
    """Accounts: beyond the limit those that were not used for the longest time go."""
    made = []

    def make(name):
        made.append(name)
        return unconnected(name)

    accounts = Accounts(make, limit=2)
    for name in "ababcab":
        accounts[name].token()
        gc.collect()
    assert made == ["a", "b", "c", "a", "b"]
    assert len(accounts) == 2


def test_a_manager_is_used_while_another_one_is_forgotten():
    """Accounts: the choice of what to forget is not disturbed by another thread."""
    looked, go_on = threading.Event(), threading.Event()

    class Watched(TokenManager):
        @property
        def is_idle(self):
            looked.set()
            return go_on.wait(10)

    accounts = Accounts(lambda name: Watched(lambda token: token), limit=1)
    mine = accounts["a"]
    outcomes = []
    threads = [threading.Thread(target=lambda n=n: outcomes.append(accounts[n])) for n in "ba"]
    threads[0].start()
    assert looked.wait(10)
    threads[1].start()
    threads[1].join(0.1)  # it uses "a" now, unless it waits, as it should
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(outcomes) == 2
    assert mine in outcomes


def test_a_manager_in_use_is_never_made_a_second_time():
    """Accounts: a forgotten manager that somebody still holds is the manager of its name."""
    accounts = Accounts(unconnected, limit=1)
    mine = accounts["a"]
    assert accounts["b"] is not mine
    assert len(accounts) == 1
    assert accounts["a"] is mine


def test_a_manager_that_refreshes_is_kept(server):
    """Accounts: one that refreshes, and for which requests wait, goes when it is idle again."""
    managers = {"busy": manager_of(server)}
    accounts = Accounts(lambda name: managers.pop(name, None) or unconnected(name), limit=1)
    server.revoke_access_tokens()
    with server.token_gate() as gate:
        busy = accounts["busy"]
        number = id(busy)
        assert busy.is_idle
        busy.start_refresh(busy.token())
        assert gate.arrived.wait(10)
        assert not busy.is_idle
        del busy
        for name in "abc":
            accounts[name]
        assert len(accounts) == 2
        gc.collect()
        assert id(accounts["busy"]) == number
    assert accounts["busy"].finish()
    accounts["c"], accounts["d"]
    assert len(accounts) == 1


def test_a_manager_whose_session_expired_is_kept_while_somebody_is_asked(server):
    """P10: while a person signs in, the manager that asks is kept."""
    asked, answer = threading.Event(), threading.Event()

    def ask(error):
        asked.set()
        answer.wait(10)

    manager = manager_of(server, on_session_expired=ask)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    manager.start_refresh(manager.token())
    assert asked.wait(10)
    assert not manager.is_idle
    answer.set()
    assert manager.finish()


@pytest.mark.usefixtures("no_saver")
def test_a_manager_with_an_unsaved_token_is_kept(server):
    """P4: the token exists in the manager only."""

    class Full(MemoryStore):
        full = False

        def replace(self, new, after):
            if self.full:
                raise StoreUnavailable("no space left")
            super().replace(new, after)

    store = Full()
    manager = manager_of(server, store=store)
    store.full = True
    manager.renew(manager.token())
    assert not manager.finish(0)
    assert not manager.is_idle
    store.full = False
    assert manager.finish()
    assert manager.is_idle


def test_an_error_of_make_reaches_each_caller_and_is_forgotten():
    """Accounts: an account that cannot be made now may be made later."""
    calls = []

    def make(name):
        calls.append(name)
        if len(calls) < 3:
            raise LookupError(name)
        return unconnected(name)

    accounts = Accounts(make)
    for _ in range(2):
        with pytest.raises(LookupError):
            accounts["a"]
    assert accounts["a"] is accounts["a"]
    assert len(calls) == 3


@pytest.mark.parametrize("limit", [0, -1, 1.5, "9", None])
def test_an_unusable_limit_is_refused(limit):
    """Wrong arguments are errors at construction that name the argument."""
    with pytest.raises((TypeError, ValueError), match="limit"):
        Accounts(unconnected, limit=limit)


def test_wrong_makers_and_names_are_refused():
    """Wrong arguments are errors that name the argument."""
    with pytest.raises(TypeError, match="make"):
        Accounts("tenant")
    with pytest.raises(TypeError, match="make"):
        Accounts(lambda name: None)["a"]
    for name in (None, 7, b"a"):
        with pytest.raises(TypeError, match="name"):
            Accounts(unconnected)[name]


def test_a_forked_child_goes_on_with_the_managers():
    """Fork: a thread of the parent held the lock, which the child has anew."""
    accounts = Accounts(unconnected)
    mine = accounts["a"]
    with accounts._lock:  # no public way holds it at a chosen moment
        child = os.fork()
        if child == 0:
            os._exit(0 if accounts["a"] is mine and accounts["b"].signed_in else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_accounts_are_pickled_as_their_settings():
    """Pickling: a worker process makes its own managers."""
    accounts = Accounts(unconnected, limit=3)
    accounts["a"]
    copy = pickle.loads(pickle.dumps(accounts))
    assert (len(copy), repr(copy)) == (0, "<Accounts: 0 of at most 3>")
    assert copy["a"].signed_in
