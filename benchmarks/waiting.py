"""The cost of waiting: waking 1,000 threads, and memory after 10,000 expiries."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from requests_silent_refresh import Token, TokenManager

from .crowd import median, running

Calls = tuple[Callable[[], object], Callable[[], object], Callable[[], object]]
"""How a thread waits, how to block until all threads wait, and how to release them."""


def wake_up(threads: int = 1000, rounds: int = 9) -> dict[str, Any]:
    """Compare the release of the last of ``threads`` waiters with a bare ``Condition.notify_all``.

    Both arms alternate in one run. Each figure is the time from the release until the last
    thread has returned from its wait.
    """
    ratios, ours, bare = [], [], []
    for turn in range(rounds):
        for arm in (_ours, _bare) if turn % 2 else (_bare, _ours):
            (ours if arm is _ours else bare).append(_released(threads, *arm(threads)))
        ratios.append(ours[-1] / bare[-1])
    return {
        "threads": threads,
        "ours (s)": median(ours),
        "notify_all (s)": median(bare),
        "ratio": median(ratios),
    }


def _released(
    threads: int,
    wait: Callable[[], object],
    all_wait: Callable[[], object],
    release: Callable[[], object],
) -> float:
    done = [0.0] * threads

    def run(number: int) -> None:
        wait()
        done[number] = time.perf_counter()

    with running(threads, run):
        all_wait()
        began = time.perf_counter()
        release()
    return max(done) - began


def _bare(threads: int) -> Calls:
    condition, waiting, released = threading.Condition(), [0], [False]
    full = threading.Event()

    def wait() -> None:
        with condition:
            waiting[0] += 1
            if waiting[0] == threads:
                full.set()
            while not released[0]:
                condition.wait(30)

    def release() -> None:
        with condition:
            released[0] = True
            condition.notify_all()

    def all_wait() -> None:
        full.wait()
        with condition:  # free only once the last thread waits on it
            pass

    return wait, all_wait, release


def _ours(threads: int) -> Calls:
    answer = threading.Event()

    def refresh(token: Token | None) -> Token:
        answer.wait()
        return Token("b" * 20, "r" * 20)

    manager = TokenManager(refresh, wait_timeout=30)
    manager.sign_in(Token("a" * 20, "r" * 20))
    rejected = manager.token()

    def all_wait() -> None:
        pause = threading.Event()
        while manager.stats.waits < threads:
            pause.wait(0.01)

    return lambda: manager.renew(rejected), all_wait, answer.set


def memory(expiries: int = 10_000) -> dict[str, Any]:
    """Measure the bytes that ``expiries`` refreshes leave behind, after a thousand to warm up."""
    manager = TokenManager(lambda token: Token("b" * 20, "r" * 20))
    manager.sign_in(Token("a" * 20, "r" * 20))
    _expire(manager, 1000)
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    _expire(manager, expiries)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"expiries": expiries, "bytes left": after - before}


def _expire(manager: TokenManager, times: int) -> None:
    for _ in range(times):
        manager.renew(manager.token())


def memory_of_a_waiter(threads: int = 200) -> dict[str, Any]:
    """Compare the bytes held by a waiting thread with those of one that waits on a bare Event."""

    def measure(
        wait: Callable[[], object], all_wait: Callable[[], object], release: Callable[[], object]
    ) -> float:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        with running(threads, lambda number: wait()):
            all_wait()
            held = tracemalloc.get_traced_memory()[0] - before
            release()
        return held / threads

    tracemalloc.start()
    event, started = threading.Event(), threading.Barrier(threads + 1)

    def bare() -> None:
        started.wait()
        event.wait(30)

    base = measure(bare, started.wait, event.set)
    ours = measure(*_ours(threads))
    tracemalloc.stop()
    return {"bare Event": base, "ours": ours, "difference": ours - base}
