"""Request latency over time, across expiries: what a caller notices of a refresh."""

from __future__ import annotations

import threading
import time
from typing import Any

import requests

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

from . import arms
from .crowd import median, p99


def timeline(
    get: arms.Get, url: str, threads: int, seconds: float, pace: float
) -> tuple[list[tuple[float, float]], int]:
    """Have each thread send a request every ``pace`` seconds: (when, took) each, and failures.

    A thread whose requests take longer sends fewer.
    """
    points: list[tuple[float, float]] = []
    failures = 0
    lock = threading.Lock()
    start = time.perf_counter()

    def run(number: int) -> None:
        nonlocal failures
        mine, failed, at = [], 0, start + pace * number / threads
        pause = threading.Event()
        while max(at, time.perf_counter()) < start + seconds:
            pause.wait(max(0.0, at - time.perf_counter()))
            began = time.perf_counter()
            try:
                failed += get(url).status_code != 200
            except Exception:  # noqa: BLE001 (whatever the arm raises is a failure)
                failed += 1
            mine.append((began - start, time.perf_counter() - began))
            at += pace
        with lock:
            points.extend(mine)
            failures += failed

    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sorted(points), failures


def refresh_ahead(
    pairs: int = 11, threads: int = 64, lifetime: float = 2.0, expiries: int = 2
) -> dict[str, Any]:
    """The bar: with a known expiry nobody sees a 401, nobody waits, and p99 stays what it was.

    Pairs of runs with tokens that expire and tokens that do not, in turns that
    change sides, all else alike.
    """
    seconds = lifetime * (expiries + 0.5)
    ratios, rejected, waits, exchanges = [], 0, 0, 0
    for turn in range(pairs):
        figures = {}
        for expiring in (True, False) if turn % 2 else (False, True):
            with AuthorizationServer(
                client_secret=arms.CLIENT[1],
                latency=0.05,
                access_token_lifetime=lifetime if expiring else 3600.0,
            ) as server:
                manager = TokenManager(RefreshTokenGrant(server.token_endpoint, *arms.CLIENT))
                manager.sign_in(server.sign_in_token())
                with requests.Session() as session:
                    SilentRefreshAdapter(manager, server.url, pool_maxsize=threads).mount_on(
                        session
                    )
                    points, failures = timeline(
                        session.get, server.resource, threads, seconds, pace=0.2
                    )
                # The first requests open their connections, with or without expiries.
                figures[expiring] = p99([took for at, took in points if at > 0.4])
                rejected += server.counters.rejected + failures
                waits += manager.stats.waits
                exchanges += server.counters.exchanges
        ratios.append(figures[True] / figures[False])
    return {
        "pairs": pairs,
        "threads": threads,
        "saw a 401": rejected,
        "waited": waits,
        "exchanges": exchanges,
        "p99 ratio": median(ratios),
        "p99 ratios": ratios,
    }


def picture(path: str, threads: int = 32, seconds: float = 9.0, lifetime: float = 3.0) -> None:
    """Draw each arm's latency over time, the token endpoint taking 0.3 s, as a PNG.

    A token lives longer by the arm's leeway, so that each arm meets its expiries at
    the same times: some would take one of three seconds for expired at its issue.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = [arms.OURS, *arms.PEERS]
    figure, axes = pyplot.subplots(
        len(chosen), 1, figsize=(9, 1.5 * len(chosen)), sharex=True, sharey=True
    )
    for axis, arm in zip(axes, chosen, strict=True):
        lives = lifetime + arm.leeway
        with AuthorizationServer(
            client_secret=arms.CLIENT[1], latency=0.3, access_token_lifetime=lives
        ) as server:
            answer = {**server.sign_in(), "expires_at": time.time() + lives}
            get = arm.make(server, answer)
            points, failures = timeline(get, server.resource, threads, seconds, pace=0.1)
        axis.plot(
            [at for at, _ in points],
            [took * 1000 for _, took in points],
            ".",
            markersize=2,
            color="tab:blue" if arm is arms.OURS else "tab:gray",
        )
        axis.set_yscale("log")
        for expiry in range(1, int(seconds / lifetime) + 1):
            axis.axvline(expiry * lifetime, color="tab:red", linewidth=0.5)
        failed = f", {failures} of {len(points)} failed" if failures else ""
        axis.set_title(arm.name + failed, fontsize=8, loc="left")
        axis.set_ylabel("ms", fontsize=7)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel(
        f"seconds; red: when the first token counts as expired, and every {lifetime:g} s after",
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
