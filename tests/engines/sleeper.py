"""A process that stops itself (SIGSTOP) at one step of a refresh and continues on SIGCONT.

Started as ``python -m engines.sleeper``; reads its order as JSON from its input and
writes the result as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import requests

from requests_silent_refresh import (
    RedisStore,
    RefreshTokenGrant,
    RefreshUnavailable,
    SQLStore,
    TokenManager,
)
from requests_silent_refresh.secret_sources import FromEnvironment

STEPS = ("exclusive", "load", "begin", "sent", "answered", "saved")


class _Short:
    """Leases short enough for a test to wait for their end."""

    take = 1.0
    margin = 1.0


class ShortRedisStore(_Short, RedisStore):
    """A Redis store with short leases."""


class ShortSQLStore(_Short, SQLStore):
    """An SQL store with short leases."""


def short_store(url, name):
    """Open a store with short leases."""
    kind = ShortRedisStore if url.startswith("redis") else ShortSQLStore
    return kind(url, name, key=FromEnvironment("FLEET_KEY"))


def sleepy(store, step):
    """Make ``store`` stop this process after the first time it has done its part of ``step``."""
    done = set()

    def stop(here):
        if here == step and here not in done:
            done.add(here)
            # Sent to this thread, so that it does not continue before the signal arrives.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    class Sleepy(type(store)):
        def exclusive(self, timeout, after=None):
            hold = super().exclusive(timeout, after)
            if hold is not None:
                begin = hold.begin

                def begin_and_stop(*arguments):
                    begin(*arguments)
                    stop("begin")

                hold.begin = begin_and_stop
                done.add("taken")
                stop("exclusive")
            return hold

        def load(self):
            state = super().load()
            if "taken" in done:
                stop("load")
            return state

        def replace(self, new, after):
            super().replace(new, after)
            stop("saved")

    store.__class__ = Sleepy
    return stop


def main():
    """Refresh once and report the result."""
    order = json.loads(sys.stdin.readline())
    store = short_store(order["store"], order["name"])
    stop = sleepy(store, order["step"])
    grant = RefreshTokenGrant(order["token_endpoint"], "client", timeout=0.5)

    def refresh(token):
        new = grant(token)
        stop("answered")
        return new

    refresh.timeout = grant.timeout
    manager = TokenManager(refresh, store=store, wait_timeout=60, refresh_ahead=0)
    first = manager.token()
    pause = threading.Event()
    while True:
        try:
            manager.renew(first)
            result = "refreshed"
        except RefreshUnavailable as error:
            # The process slept longer than an exchange may take; the next request tries again.
            pause.wait(error.retry_after or 0.1)
            continue
        except requests.RequestException as error:
            result = type(error).__name__
        break
    state = store.load()
    print(json.dumps({"result": result, "generation": state.generation}), flush=True)


if __name__ == "__main__":
    main()
