"""Running many threads at once and timing them."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def running(count: int, work: Callable[[int], object]) -> Iterator[None]:
    """Run ``work(n)`` in ``count`` threads; the end of the block waits until all have returned."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def at_once(count: int, work: Callable[[int], int]) -> tuple[list[float], list[object]]:
    """Run ``work(n)`` in ``count`` threads at the same moment; return the seconds and the results.

    The result of a call that raises is the exception's name: a failing peer is reported as such.
    """
    seconds = [0.0] * count
    outcomes: list[object] = [None] * count
    start = threading.Barrier(count + 1)

    def run(number: int) -> None:
        start.wait()
        began = time.perf_counter()
        try:
            outcomes[number] = work(number)
        except Exception as error:  # noqa: BLE001 (any exception is the arm's result)
            outcomes[number] = type(error).__name__
        seconds[number] = time.perf_counter() - began

    with running(count, run):
        start.wait()
    return seconds, outcomes


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


median = statistics.median
