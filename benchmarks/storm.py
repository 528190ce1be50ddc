"""Many threads at an expiry: failed requests, exchanges, and the slowest request."""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
import time
from collections import Counter
from typing import Any

from requests_silent_refresh.testing import AuthorizationServer

from . import arms
from .crowd import at_once, median


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of expiry. ``early``: the token is revoked while all requests are in flight.

    ``trouble`` is what happens to the first exchange: a key of :data:`TROUBLES`.
    """

    threads: int
    early: bool
    latency: float
    trouble: str | None = None

    def __str__(self) -> str:
        kind = "revoked early" if self.early else "known expiry"
        told = "" if self.trouble is None else f", {self.trouble}"
        return f"{self.threads} threads, {kind}, token endpoint {self.latency * 1000:g} ms{told}"


# With the grace period without which nobody survives a lost answer.
TROUBLES: dict[str, dict[str, Any]] = {
    "one 503": {"status": 503},
    "one answer lost after the rotation": {"drop": "after"},
}
TROUBLED = tuple(Scenario(32, False, 0.05, trouble) for trouble in TROUBLES)


SCENARIOS = tuple(
    Scenario(threads, early, latency)
    for early in (False, True)
    for threads in (8, 64, 256)
    for latency in ((0.05, 1.0) if threads == 64 else (0.05,))
)


def run(scenario: Scenario, rounds: int = 5) -> dict[str, Any]:
    """Run the scenario ``rounds`` times for each arm, in turn; return medians over the rounds.

    There is only one round if an exchange takes a second: with a lock around each exchange,
    64 threads take a minute.
    """
    rounds = rounds if scenario.latency < 1 else 1
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms.ARMS[1:]}
    for _ in range(rounds):
        for arm in arms.ARMS[1:]:
            found[arm.name].append(_once(scenario, arm))
    return {
        name: {
            "failed": sum(r["failed"] for r in results),
            "of": scenario.threads * rounds,
            "exchanges": median(r["exchanges"] for r in results),
            "sessions_lost": sum(r["reuse_detections"] > 0 for r in results),
            "slowest": median(r["slowest"] for r in results),
            "outcomes": dict(sum((r["outcomes"] for r in results), Counter())),
        }
        for name, results in found.items()
    }


def _once(scenario: Scenario, arm: arms.Arm) -> dict[str, Any]:
    grace = 0.0 if scenario.trouble is None else 10.0
    with AuthorizationServer(
        client_secret=arms.CLIENT[1], latency=scenario.latency, grace=grace
    ) as server:
        answer = arms.signed_in(server)
        if scenario.trouble is not None:
            server.fault("token", **TROUBLES[scenario.trouble])
        if scenario.early:
            server.gate(scenario.threads, then=server.revoke_access_tokens)
        else:
            # Past its expiry and rejected by the server, as at the end of its lifetime.
            answer["expires_at"] = time.time() - 1
            answer["expires_in"] = -1
            server.revoke_access_tokens()
        get = arm.make(server, answer)
        seconds, outcomes = at_once(scenario.threads, lambda _: get(server.resource).status_code)
        return {
            "failed": sum(outcome != 200 for outcome in outcomes),
            "exchanges": server.counters.exchanges,
            "reuse_detections": server.counters.reuse_detections,
            "slowest": max(seconds),
            "outcomes": Counter(map(str, outcomes)),
        }


def early_revocation_against_no_auth(threads: int = 256, rounds: int = 9) -> dict[str, Any]:
    """Compare the slowest of 256 rejected requests with 256 pairs of requests without auth.

    A rejected request consists of two requests and an exchange, so it is compared with the
    slowest thread that sends two requests in a row without auth.
    """
    latency = 0.05
    excess = []
    exchanges = failed = 0
    for _ in range(rounds):
        with AuthorizationServer(client_secret=arms.CLIENT[1], latency=latency) as server:
            answer = arms.signed_in(server)
            floor, get = arms.floor(server, answer), arms.ours(server, answer)

            def twice(_: int, floor: arms.Get = floor, url: str = server.url) -> int:
                floor(url + "/open")
                return floor(url + "/open").status_code

            base = max(at_once(threads, twice)[0])
            server.gate(threads, then=server.revoke_access_tokens)
            seconds, outcomes = at_once(
                threads, lambda _, get=get, url=server.resource: get(url).status_code
            )
            failed += sum(outcome != 200 for outcome in outcomes)
            exchanges += server.counters.exchanges
            excess.append((max(seconds) - latency) / base)
    return {
        "revocations": rounds,
        "exchanges": exchanges,
        "failed": failed,
        "ratio": median(excess),
    }


def processes(
    latency: float, count: int = 4, threads: int = 8, expiries: int = 3
) -> dict[str, Any]:
    """Run several processes of several threads that share one session, if the arm supports that.

    Peers keep their tokens in memory, so each process starts with the same tokens, as if it
    had read them from the same configuration.
    """
    found = {}
    for arm in (arms.OURS, *arms.PEERS):
        with (
            AuthorizationServer(client_secret=arms.CLIENT[1], latency=latency) as server,
            tempfile.TemporaryDirectory() as directory,
        ):
            answer = arms.signed_in(server)
            if arm is arms.OURS:
                answer["path"] = f"{directory}/tokens"
                arm.make(server, answer)  # one sign-in, before the processes start
            context = multiprocessing.get_context("fork")
            ready, go = context.Barrier(count + 1), context.Barrier(count + 1)
            results: Any = context.SimpleQueue()
            workers = [
                context.Process(
                    target=_work, args=(arm, server, answer, threads, expiries, ready, go, results)
                )
                for _ in range(count)
            ]
            for worker in workers:
                worker.start()
            for _ in range(expiries):
                ready.wait()
                server.gate(count * threads, then=server.revoke_access_tokens)
                go.wait()
            received = [results.get() for _ in workers]
            for worker in workers:
                worker.join()
            found[arm.name] = {
                "failed": sum(failed for failed, _ in received),
                "of": count * threads * expiries,
                "exchanges": server.counters.exchanges,
                "expiries": expiries,
                "sessions_lost": int(server.counters.reuse_detections > 0),
                "slowest": max(slowest for _, slowest in received),
            }
    return found


def _work(
    arm: arms.Arm,
    server: AuthorizationServer,
    answer: dict[str, Any],
    threads: int,
    expiries: int,
    ready: Any,
    go: Any,
    results: Any,
) -> None:
    get = arm.make(arms.Address(server.url), answer)  # type: ignore[arg-type]
    failed, slowest = 0, 0.0
    for _ in range(expiries):
        ready.wait()
        go.wait()
        seconds, outcomes = at_once(threads, lambda _: get(server.resource).status_code)
        failed += sum(outcome != 200 for outcome in outcomes)
        slowest = max(slowest, *seconds)
    results.put((failed, slowest))
