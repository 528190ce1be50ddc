"""Parallel 401s: one exchange, and no request fails (P1, P2, P3)."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import requests
from wire import at_once, manager_of, session_of

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    TokenManager,
)

REVOCATIONS = 5


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    return EncryptedFileStore(tmp_path / "tokens", key=b"k" * 43 + b"=")


@pytest.fixture
def manager(server, store):
    return manager_of(server, store=store)


def assert_one_exchange_each(server, manager, revocations):
    assert server.counters.exchanges == server.counters.granted == revocations
    assert server.counters.reuse_detections == 0
    assert server.log.overlapping_exchanges() == []
    assert server.log.unneeded_exchanges() == []
    assert server.log.of("gate-timeout") == []
    assert manager.stats.exchanges == revocations


@pytest.mark.parametrize("shared", [True, False], ids=["one session", "a session each"])
def test_64_threads_through_5_revocations_cost_5_exchanges(server, manager, shared):
    """P1, P2: 64 parallel 401s after each revocation cost one exchange, and no request fails."""
    threads = 64
    if shared:
        each = [session_of(manager, server.url, pool_maxsize=threads)] * threads
    else:
        each = [session_of(manager, server.url) for _ in range(threads)]

    for _ in range(REVOCATIONS):
        server.gate(threads, then=server.revoke_access_tokens)
        outcomes = at_once(threads, lambda n: each[n].get(server.resource).status_code)
        assert Counter(map(repr, outcomes)) == {"200": threads}

    assert_one_exchange_each(server, manager, REVOCATIONS)
    assert sorted(server.log.rejections().values()) == [threads] * REVOCATIONS
    assert manager.stats.replays == threads * REVOCATIONS
    for session in each:
        session.close()


class Counted(SilentRefreshAdapter):
    """Sets ``all_arrived`` when ``expected`` requests have a token and wait for a connection."""

    def __init__(self, *args, expected, **options):
        self.expected = expected
        self.start()
        super().__init__(*args, **options)

    def start(self):
        self.arrived, self.all_arrived, self.counting = 0, threading.Event(), threading.Lock()

    def get_connection_with_tls_context(self, *args, **options):
        with self.counting:
            self.arrived += 1
            if self.arrived == self.expected:
                self.all_arrived.set()
        return super().get_connection_with_tls_context(*args, **options)


def test_a_pool_of_one_connection_does_not_deadlock(server, manager):
    """P1, P8: 64 threads share one blocking connection, which is free while they wait."""
    threads = 64
    session = requests.Session()
    adapter = Counted(manager, server.url, expected=threads, pool_block=True, pool_maxsize=1)
    adapter.mount_on(session)

    def revoke_when_all_have_arrived():
        # One request is in flight; the others hold the old token and wait for its connection.
        assert adapter.all_arrived.wait(20)
        server.revoke_access_tokens()

    for _ in range(REVOCATIONS):
        adapter.start()
        server.gate(1, then=revoke_when_all_have_arrived)
        outcomes = at_once(threads, lambda n: session.get(server.resource).status_code)
        assert Counter(map(repr, outcomes)) == {"200": threads}
    assert_one_exchange_each(server, manager, REVOCATIONS)
    assert sorted(server.log.rejections().values()) == [threads] * REVOCATIONS
    session.close()


def test_200_threads_wait_for_one_slow_exchange(server, manager):
    """P1, P2: 200 requests are rejected at once; all succeed after an exchange that takes 1 s."""
    threads = 200
    server.latency = 1.0
    session = session_of(manager, server.url, pool_maxsize=threads)
    server.gate(threads, then=server.revoke_access_tokens)
    outcomes = at_once(threads, lambda n: session.get(server.resource).status_code)
    assert Counter(map(repr, outcomes)) == {"200": threads}
    assert_one_exchange_each(server, manager, 1)
    assert sorted(server.log.rejections().values()) == [threads]
    session.close()


def test_a_late_401_is_replayed_without_a_refresh(server, manager):
    """P3: a request whose 401 comes after the refresh is replayed with the new token.

    It starts no exchange.
    """
    session = session_of(manager, server.url)
    rejected, release = threading.Event(), threading.Event()

    def hold_the_401(request, answer):
        if answer.status == 401:
            rejected.set()
            assert release.wait(10)

    server.on("/resource/slow", hold_the_401)
    server.revoke_access_tokens()
    late = []
    slow = threading.Thread(target=lambda: late.append(session.get(server.resource + "/slow")))
    slow.start()
    assert rejected.wait(10)
    assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 1
    release.set()
    slow.join()
    assert late[0].status_code == 200
    assert [r.status_code for r in late[0].history] == [401]
    assert_one_exchange_each(server, manager, 1)
    session.close()


def test_a_session_survives_a_restart(server, tmp_path):
    """P4: a new process finds the rotated token in the file and continues without a sign-in."""
    path, key = tmp_path / "tokens", b"k" * 43 + b"="
    for round_ in range(3):
        manager = TokenManager(
            RefreshTokenGrant(server.token_endpoint, "client"),
            store=EncryptedFileStore(path, key=key),
            refresh_ahead=0,
        )
        if round_ == 0:
            assert not manager.signed_in
            manager.sign_in(server.sign_in_token())
        with session_of(manager, server.url) as session:
            server.revoke_access_tokens()
            assert session.get(server.resource).status_code == 200
        assert server.counters.exchanges == round_ + 1
    assert server.counters.sign_ins == 1
    assert server.counters.reuse_detections == 0
