"""Request latency over time, across expiries: whether a caller notices a refresh."""

from __future__ import annotations

import threading
import time
from typing import Any

import requests

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

from . import arms
from .crowd import median, p99, running


def timeline(
    get: arms.Get, url: str, threads: int, seconds: float, pace: float
) -> tuple[list[tuple[float, float]], int]:
    """Send a request every ``pace`` seconds in each thread for ``seconds``.

    Returns (start, duration) of each request, in seconds, and the number of failures. A
    thread whose requests take longer than ``pace`` sends fewer of them.
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
            except Exception:  # noqa: BLE001 (any exception is a failure)
                failed += 1
            mine.append((began - start, time.perf_counter() - began))
            at += pace
        with lock:
            points.extend(mine)
            failures += failed

    with running(threads, run):
        pass
    return sorted(points), failures


def refresh_ahead(
    pairs: int = 11, threads: int = 64, lifetime: float = 2.0, expiries: int = 2
) -> dict[str, Any]:
    """Target: with a known expiry no request gets a 401, none waits, and p99 does not change.

    Each pair has a run with tokens that expire and a run with tokens that do not, in
    alternating order. Everything else is the same.
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
                # The first requests open connections, so they are left out of both runs.
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
    """Draw each arm's latency over time as a PNG; the token endpoint takes 0.3 s.

    A token lives longer by the arm's leeway, so that all arms treat it as expired at the same
    time. Otherwise some arms would treat a token of three seconds as expired from the start.
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
            get = arm.make(server, arms.signed_in(server, lives))
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
