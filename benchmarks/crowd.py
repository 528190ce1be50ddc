"""Many threads at once, timed, and what a list of times says."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence


def at_once(count: int, work: Callable[[int], int]) -> tuple[list[float], list[object]]:
    """Run ``work(n)`` in ``count`` threads together; return seconds taken and what came of each.

    An exception is what came of it too: a peer that fails is reported as failing.
    """
    seconds = [0.0] * count
    outcomes: list[object] = [None] * count
    start = threading.Barrier(count + 1)

    def run(number: int) -> None:
        start.wait()
        began = time.perf_counter()
        try:
            outcomes[number] = work(number)
        except Exception as error:  # noqa: BLE001 (whatever the arm raises is its result)
            outcomes[number] = type(error).__name__
        seconds[number] = time.perf_counter() - began

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    return seconds, outcomes


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


median = statistics.median
