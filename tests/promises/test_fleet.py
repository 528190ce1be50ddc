"""Several hosts with one session: the promises hold for processes that share only an engine."""

from __future__ import annotations

import pytest
from engines.fleet import KEY, SECONDS, Fleet
from engines.host import store_of

from requests_silent_refresh import SQLStore
from requests_silent_refresh.testing import AuthorizationServer

HOSTS, THREADS = 4, 16


@pytest.fixture(params=["redis", "postgres"])
def engine(request):
    engine = request.getfixturevalue("redis_server" if request.param == "redis" else "postgres")
    engine.empty()
    return engine


@pytest.fixture
def store(engine, monkeypatch):
    monkeypatch.setenv("FLEET_KEY", KEY)
    store = store_of(engine.url)
    if isinstance(store, SQLStore):
        store.create_table()
    yield store
    store.close()


def test_four_hosts_refresh_each_token_once(tmp_path, engine, store):
    """P1, P2: 4 hosts of 16 threads, tokens that live 1 s: no failure, no needless exchange."""
    with AuthorizationServer(access_token_lifetime=1) as server:
        store.save(server.sign_in_token(), None)
        waits = [10.0] * HOSTS
        with Fleet(tmp_path, server, engine.url, waits, threads=THREADS, seconds=SECONDS) as fleet:
            reports = fleet.reports()
        assert [report["failures"] for report in reports] == [[]] * HOSTS
        assert len({report["home"] for report in reports}) == HOSTS
        assert all(report["requests"] > THREADS for report in reports)
        assert server.counters.reuse_detections == 0
        assert server.counters.refused == server.counters.faulted == 0
        assert server.log.overlapping_exchanges() == []
        # A token is due in the last fifth of its lifetime, when it is refreshed ahead.
        assert server.log.unneeded_exchanges(leeway=0.2) == []
        # An exchange under way at the end finishes after its host has reported.
        reported = sum(report["exchanges"] for report in reports)
        assert reported <= server.counters.granted <= reported + 1
        assert SECONDS - 2 <= server.counters.granted <= 1.4 * SECONDS + 2
        assert sum(report["adopted"] for report in reports) >= server.counters.granted
