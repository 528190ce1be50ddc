"""The bars of the first slice: parallel 401s, one exchange, nobody fails (P1, P2, P3)."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import requests

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
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"), store=store, refresh_ahead=0
    )
    manager.sign_in(server.sign_in_token())
    return manager


def at_once(threads, work):
    """Run ``work(number)`` in that many threads; return what each returned or raised."""
    outcomes = [None] * threads
    barrier = threading.Barrier(threads)

    def run(number):
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except Exception as error:
            outcomes[number] = error

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return outcomes


def assert_one_exchange_each(server, manager, revocations):
    assert server.counters.exchanges == server.counters.granted == revocations
    assert server.counters.reuse_detections == 0
    assert server.log.overlapping_exchanges() == []
    assert server.log.unneeded_exchanges() == []
    assert server.log.of("gate-timeout") == []
    assert manager.stats.exchanges == revocations


@pytest.mark.parametrize("shared", [True, False], ids=["one session", "a session each"])
def test_64_threads_through_5_revocations_cost_5_exchanges(server, manager, shared):
    """P1, P2: 64 parallel 401s for each revocation, one exchange for each, no failure."""
    threads = 64
    one = requests.Session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=threads).mount_on(one)
    each = [one] * threads
    if not shared:
        each = [requests.Session() for _ in range(threads)]
        for session in each:
            SilentRefreshAdapter(manager, server.url).mount_on(session)

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
    """Says when ``expected`` requests have their token and stand before the pool."""

    def __init__(self, *args, expected, **options):
        self.expected = expected
        self.start()
        super().__init__(*args, **options)

    def start(self):
        self.standing, self.all_stand, self.counting = 0, threading.Event(), threading.Lock()

    def get_connection_with_tls_context(self, *args, **options):
        with self.counting:
            self.standing += 1
            if self.standing == self.expected:
                self.all_stand.set()
        return super().get_connection_with_tls_context(*args, **options)


def test_a_pool_of_one_connection_is_no_deadlock(server, manager):
    """P1, P8: 64 threads behind one blocking connection, which is free while they wait."""
    threads = 64
    session = requests.Session()
    adapter = Counted(manager, server.url, expected=threads, pool_block=True, pool_maxsize=1)
    adapter.mount_on(session)

    def revoke_when_all_stand():
        # One is in flight; the others wait for its connection with the old token in hand.
        assert adapter.all_stand.wait(20)
        server.revoke_access_tokens()

    for _ in range(REVOCATIONS):
        adapter.start()
        server.gate(1, then=revoke_when_all_stand)
        outcomes = at_once(threads, lambda n: session.get(server.resource).status_code)
        assert Counter(map(repr, outcomes)) == {"200": threads}
    assert_one_exchange_each(server, manager, REVOCATIONS)
    assert sorted(server.log.rejections().values()) == [threads] * REVOCATIONS
    session.close()


def test_200_threads_wait_for_one_slow_exchange(server, manager):
    """P1, P2: 200 requests are rejected at once, the token endpoint takes 1 s, all succeed."""
    threads = 200
    server.latency = 1.0
    session = requests.Session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=threads).mount_on(session)
    server.gate(threads, then=server.revoke_access_tokens)
    outcomes = at_once(threads, lambda n: session.get(server.resource).status_code)
    assert Counter(map(repr, outcomes)) == {"200": threads}
    assert_one_exchange_each(server, manager, 1)
    assert sorted(server.log.rejections().values()) == [threads]
    session.close()


def test_a_late_401_is_replayed_without_a_refresh(server, manager):
    """P3: a request whose 401 comes after the refresh takes the new token and asks for none."""
    session = requests.Session()
    SilentRefreshAdapter(manager, server.url).mount_on(session)
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
    """P4: a second process finds the rotated token in the file and goes on without a sign-in."""
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
        with requests.Session() as session:
            SilentRefreshAdapter(manager, server.url).mount_on(session)
            server.revoke_access_tokens()
            assert session.get(server.resource).status_code == 200
        assert server.counters.exchanges == round_ + 1
    assert server.counters.sign_ins == 1
    assert server.counters.reuse_detections == 0
