"""What the exit of the interpreter waits for: every refresh that has begun (P5)."""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import time
import weakref
from typing import Protocol

from ..system.signals import uninterrupted

logger = logging.getLogger("requests_silent_refresh")

# Seconds after which a person is told what the exit waits for.
TELL_AFTER = 1.0


class Refreshing(Protocol):
    """What the exit waits for: a manager's worker."""

    @property
    def patience(self) -> float:
        """Seconds that a refresh may take in all."""

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no refresh is under way; return whether that is so."""

    def finish(self, timeout: float) -> bool:
        """Do the same, and save what is left to be saved."""


_workers: weakref.WeakSet[Refreshing] = weakref.WeakSet()
_begun = False
_hooked_into_multiprocessing: int | None = None


def wait_for(worker: Refreshing) -> None:
    """Have the exit wait for ``worker``, as long as it lives."""
    _workers.add(worker)


def has_begun() -> bool:
    """Say whether the interpreter exits: it may end any thread but the main one from now on."""
    return _begun


def finish_all() -> None:
    """Finish every refresh of this process, through any number of signals (P5).

    The flag comes first: a batch that is opened before it is seen here and waited for, and
    one that is opened after it is led by the main thread only, which is here.
    """
    global _begun  # noqa: PLW0603 (one flag a process, which is never taken back)
    _begun = True
    # What signal handlers raise is dropped: the interpreter exits already.
    try:
        try:
            uninterrupted(_finish)
        except BaseException:  # noqa: BLE001 (it came before the handlers were put off)
            uninterrupted(_finish)
    except BaseException:  # noqa: BLE001, S110 (as above)
        pass


def _finish() -> None:
    began = time.monotonic()
    # The last pass finds what began in one manager while another one was waited for.
    for limit in (TELL_AFTER, math.inf, math.inf):
        for worker in list(_workers):
            worker.wait_until_idle(min(began + worker.patience - time.monotonic(), limit))
        busy = [worker.patience for worker in list(_workers) if not worker.wait_until_idle(0)]
        if busy and limit == TELL_AFTER:
            logger.warning(
                "the exit waits for a token refresh to be finished and saved, for %.0f s at most: "
                "without that the session may be lost",
                max(busy) - TELL_AFTER,
            )
    for worker in list(_workers):
        worker.finish(0)
    atexit.unregister(finish_all)  # the others would find nothing to do


# The last handler to be registered runs first. weakref's own, which it registers with its first
# finalizer, closes urllib3's pools: what a signal handler raises in there leaves a lock taken, and
# the exchange under way would wait for it.
weakref.finalize(finish_all, finish_all).detach()

# Many times, because a signal handler that raises just when one begins ends that one, and in a
# burst of Ctrl-C the next signal comes while the traceback of the last is printed.
for _ in range(30):
    atexit.register(finish_all)


def hook_into_multiprocessing() -> None:
    """Have a child of multiprocessing wait: it ends by ``os._exit``, after its own finalizers."""
    global _hooked_into_multiprocessing  # noqa: PLW0603 (once per process: a forked child hooks anew)
    if "multiprocessing.util" in sys.modules and _hooked_into_multiprocessing != os.getpid():
        _hooked_into_multiprocessing = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, finish_all, exitpriority=100)
