"""Engines that are killed and networks that are cut while a fleet sends requests."""

from __future__ import annotations

import threading
import time

import pytest
from engines.fleet import KEY, SECONDS, Fleet
from engines.host import store_of
from engines.proxy import Proxy
from engines.redis import RedisServer
from engines.sql import Postgres

from requests_silent_refresh import SQLStore
from requests_silent_refresh.testing import AuthorizationServer

# The requests of the first host wait until the outage ends; those of the second fail meanwhile.
WAIT_TIMEOUTS = [10.0, 1.0]
THREADS = 4
LIFETIME = 1
OUTAGE = min(SECONDS, 5.0)


@pytest.fixture(params=[RedisServer, Postgres])
def engine(request, tmp_path):
    engine = request.param(tmp_path / "engine").start()
    yield engine
    engine.stop()


@pytest.fixture
def server(engine, monkeypatch):
    monkeypatch.setenv("FLEET_KEY", KEY)
    store = store_of(engine.url)
    if isinstance(store, SQLStore):
        store.create_table()
    with AuthorizationServer(access_token_lifetime=LIFETIME) as server:
        store.save(server.sign_in_token(), None)
        store.close()
        yield server


class Traffic:
    """Hosts that send requests before, during and after an outage; their reports and claims."""

    def __init__(self, tmp_path, server, store_url):
        self.server = server
        self.fleet = Fleet(
            *(tmp_path, server, store_url, WAIT_TIMEOUTS),
            threads=THREADS,
            seconds=120,
            pause=0.01,
            times=True,
        )

    def through(self, begin, end):
        """Send requests before ``begin()``, during the outage, and after ``end()``."""
        with self.fleet:
            granted = self.server.counters.granted
            self.server.wait_for(lambda: self.server.counters.granted > granted + 1, 30)
            self.began_at = time.time()
            begin()
            threading.Event().wait(OUTAGE)
            end()
            self.ended_at = time.time()
            granted = self.server.counters.granted
            self.server.wait_for(lambda: self.server.counters.granted > granted + 1, 30)
            self.reports = self.fleet.stop()
        return self

    def assert_nothing_is_lost(self):
        assert self.server.counters.reuse_detections == 0
        assert self.server.counters.refused == 0
        assert self.server.log.overlapping_exchanges() == []
        assert len({event.family for event in self.server.log.of("exchange")}) == 1

    def assert_no_valid_token_failed(self):
        for report in self.reports:
            for began, ended, valid_until, failure in report["failures"]:
                # The server counts the lifetime from the grant, the client from its receipt.
                assert valid_until <= ended + 0.1, (began - self.began_at, failure)

    def assert_recovery_within(self, seconds):
        for report in self.reports:
            recovered = min(end for _, end in report["successes"] if end >= self.ended_at)
            assert recovered <= self.ended_at + seconds
            late = [f for f in report["failures"] if f[1] > self.ended_at + seconds]
            assert late == []


def test_the_engine_is_killed_and_comes_back(tmp_path, server, engine):
    """P1, P7: SIGKILL of the engine under load loses no session; valid tokens stay in use."""
    traffic = Traffic(tmp_path, server, engine.url)
    traffic.through(engine.kill, engine.start)
    traffic.assert_nothing_is_lost()
    traffic.assert_no_valid_token_failed()
    traffic.assert_recovery_within(1.0)


def test_the_network_is_cut(tmp_path, server, engine):
    """P1, P7, P8: silence between hosts and engine loses no session; valid tokens stay in use."""
    with Proxy(engine.port) as proxy:
        url = engine.url.replace(f":{engine.port}/", f":{proxy.port}/")
        traffic = Traffic(tmp_path, server, url)
        traffic.through(proxy.cut, proxy.heal)
    traffic.assert_nothing_is_lost()
    traffic.assert_no_valid_token_failed()
    traffic.assert_recovery_within(1.0)
