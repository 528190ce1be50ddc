"""Engines that stop for some seconds at each step of a refresh, and go on (SIGSTOP, SIGCONT).

``STALLS=10`` stops each engine ten times at each step, for 1 to 10 s.
"""

from __future__ import annotations

import os
import random

import pytest
from engines.fleet import KEY, Fleet
from engines.host import store_of

from requests_silent_refresh import SQLStore
from requests_silent_refresh.testing import AuthorizationServer

STALLS = int(os.environ.get("STALLS", "0"))
STEPS = ("take", "read", "begin", "sent", "write")
SOON = 1.0 if STALLS else 4.0  # seconds; other tests may keep the machine busy
WAIT_TIMEOUTS = [10.0, 1.0, 10.0, 3.0]
THREADS = 4
LIFETIME = 1


def stalls():
    """Return the steps and seconds at which the engine is stopped."""
    if not STALLS:
        return [(step, 2.2) for step in STEPS]  # the hosts give up waiting after 2 s
    draw = random.Random(14)
    return [(step, draw.uniform(1, 10)) for _ in range(STALLS) for step in STEPS]


@pytest.fixture(params=["redis_server", "postgres", "mariadb"])
def engine(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    return engine


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


def test_a_fleet_goes_on_after_an_engine_has_stalled(tmp_path, server, engine):
    """P1, P8: within a second (``SOON``), with no session lost and no unneeded exchange."""
    done = []
    order = {"threads": THREADS, "seconds": 3600, "pause": 0.01, "times": True}
    with Fleet(tmp_path, server, engine.url, WAIT_TIMEOUTS, **order) as fleet:
        for number, (step, seconds) in enumerate(stalls()):
            stall = {"step": step, "seconds": seconds, "engine": engine.process.pid}
            began, ended = fleet.stall(tmp_path / f"stall-{number}", **stall)
            done.append((f"{seconds:.1f} s at {step}", began, ended))
            granted = server.counters.granted
            server.wait_for(lambda seen=granted: server.counters.granted > seen + 2, 30)
        reports = fleet.stop()
    assert server.counters.reuse_detections == server.counters.refused == 0
    assert server.log.overlapping_exchanges() == []
    assert server.log.unneeded_exchanges(leeway=0.2) == []
    began = [began for _, began, _ in done[1:]] + [float("inf")]
    for (stall, _, ended), until in zip(done, began, strict=True):
        for host, report in enumerate(reports):
            where = f"host {host} after {stall}"
            assert min(end for _, end in report["successes"] if end >= ended) <= ended + SOON, where
            assert [f for f in report["failures"] if ended + SOON < f[1] < until] == [], where
