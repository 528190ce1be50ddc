"""A holder is stopped at each step of a refresh until its lease has ended, and then woken."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from engines.fleet import KEY, environment
from engines.processes import PATIENCE, wait_until
from engines.sleeper import STEPS, short_store

from requests_silent_refresh import RefreshTokenGrant, SQLStore, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

# Steps and the server's grace window in seconds, for the steps at which it makes a difference.
CASES = [(step, 0.0) for step in STEPS] + [("sent", 60.0), ("answered", 60.0)]
#: The steps at which the server has rotated but nothing is saved.
UNSAVED = ("sent", "answered")


class Outcome:
    """The outcome of one case: the sleeper's report, the other's result, the server's log."""

    def __init__(self, engine_url, home, step, grace):
        home.mkdir()
        self.sleeper = subprocess.Popen(
            [sys.executable, "-m", "engines.sleeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(home),
        )
        store = short_store(engine_url, f"stopped at {step}, grace {grace:g}")
        try:
            with AuthorizationServer(grace=grace) as server:
                store.save(server.sign_in_token(), None)
                self._run(server, engine_url, store, step)
                self.counters = server.counters
                self.overlaps = server.log.overlapping_exchanges()
            self.stored = store.load()
        finally:
            self.sleeper.kill()
            self.sleeper.communicate()
            store.close()

    def _run(self, server, engine_url, store, step):
        gate = server.token_gate() if step == "sent" else None
        order = {"store": engine_url, "name": store.name, "step": step}
        self.sleeper.stdin.write(json.dumps({**order, "token_endpoint": server.token_endpoint}))
        self.sleeper.stdin.write("\n")
        self.sleeper.stdin.flush()
        if gate is not None:
            assert gate.arrived.wait(PATIENCE)
            self.sleeper.send_signal(signal.SIGSTOP)
            gate.release()
            server.wait_for(lambda: server.counters.granted == 1)
        wait_until(self._is_stopped, f"the sleeper at {step}")
        threading.Event().wait(0.6)  # more than half the margin, in case no wait is necessary
        grant = RefreshTokenGrant(server.token_endpoint, "client", timeout=0.5)
        other = TokenManager(grant, store=store, wait_timeout=30, refresh_ahead=0)
        token = other.token()
        self.other = "refreshed"
        if step != "saved":
            try:
                other.renew(token)
            except requests.RequestException as error:
                self.other = type(error).__name__
        self.before = store.load()
        self.sleeper.send_signal(signal.SIGCONT)
        self.report = json.loads(self.sleeper.stdout.readline())

    def _is_stopped(self):
        with open(f"/proc/{self.sleeper.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.fixture(scope="module", params=["redis", "postgres"])
def outcomes(request, tmp_path_factory):
    """Run all cases in parallel, since they mostly wait."""
    engine = request.getfixturevalue("redis_server" if request.param == "redis" else "postgres")
    engine.empty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_KEY", KEY)
        store = short_store(engine.url, "table")
        if isinstance(store, SQLStore):
            store.create_table()
        store.close()
        homes = tmp_path_factory.mktemp("sleepers")
        with ThreadPoolExecutor(len(CASES)) as pool:
            running = {
                case: pool.submit(Outcome, engine.url, homes / f"{case[0]}-{case[1]:g}", *case)
                for case in CASES
            }
            return {case: outcome.result() for case, outcome in running.items()}


@pytest.mark.parametrize(("step", "grace"), CASES)
def test_the_newer_state_stays(outcomes, step, grace):
    """P1: the woken sleeper does not change the state that the other host stored meanwhile."""
    outcome = outcomes[step, grace]
    assert outcome.before.is_same(outcome.stored)
    assert outcome.report["generation"] == outcome.stored.generation == 2


@pytest.mark.parametrize(("step", "grace"), CASES)
def test_the_sleeper_adopts_it(outcomes, step, grace):
    """P1: the sleeper continues with the stored state and sends no token that is already spent."""
    outcome = outcomes[step, grace]
    assert outcome.report["result"] == outcome.other
    if step not in UNSAVED:
        assert outcome.counters.exchanges == outcome.counters.granted == 1
    assert outcome.overlaps == []


@pytest.mark.parametrize(("step", "grace"), CASES)
def test_a_session_is_lost_only_with_a_rotation_that_was_never_saved(outcomes, step, grace):
    """P1, P7: a session is lost only if a rotation was never saved, and not in a grace window."""
    outcome = outcomes[step, grace]
    if step in UNSAVED and not grace:
        # Granted but never saved; then reused by a host that could not know.
        assert (outcome.counters.granted, outcome.counters.reuse_detections) == (1, 1)
        assert outcome.other == "SessionExpired"
        assert outcome.stored.token is None
    else:
        assert outcome.counters.reuse_detections == 0
        assert outcome.other == "refreshed"
        assert outcome.stored.token is not None
