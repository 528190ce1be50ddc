"""A host of the fleet: a process with its own home directory, whose threads send requests.

Started by ``fleet.py``. Reads its order as JSON from the first line of its input. Ends
after the given time, or when its input is closed, and writes a report as JSON.
Further lines of the input are orders to stop the engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time

import requests

from requests_silent_refresh import (
    RedisStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    SQLStore,
    TokenManager,
)
from requests_silent_refresh.secret_sources import FromEnvironment

from .processes import freeze, thaw


def store_of(url):
    """Open the fleet's store."""
    kind = RedisStore if url.startswith("redis") else SQLStore
    return kind(url, "fleet", key=FromEnvironment("FLEET_KEY"))


class Stall:
    """Stops the engine when this host, as the first of the fleet, reaches a step of a refresh."""

    def __init__(self, store, grant):
        self.order = None
        self.grant = grant
        self.timeout = grant.timeout
        for step in ("take", "read", "begin", "write"):
            setattr(store._engine, step, self.watched(step, getattr(store._engine, step)))

    def watched(self, step, function):
        """Return ``function``, for which the engine may be stopped before it is called."""

        def call(*arguments):
            order = self.order
            if order is not None and order["step"] == step:
                self.order = None
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(order["claim"], os.O_CREAT | os.O_EXCL))
                    self.stop(order)
            return function(*arguments)

        return call

    def __call__(self, token):
        """Refresh; the step ``sent``."""
        return self.watched("sent", self.grant)(token)

    def stop(self, order):
        """Stop the engine for some seconds, and say when."""
        began = time.time()
        freeze(order["engine"])

        def go_on():
            ended = time.time()
            thaw(order["engine"])
            print(json.dumps([began, ended]), flush=True)

        threading.Timer(order["seconds"], go_on).start()


class Host:
    """Threads that send requests until told to stop, and the outcome of each request."""

    def __init__(self, order):
        store = store_of(order["store"])
        self.stall = Stall(store, RefreshTokenGrant(order["token_endpoint"], "client"))
        self.manager = TokenManager(self.stall, store=store, wait_timeout=order["wait_timeout"])
        self.resource = order["resource"]
        self.session = requests.Session()
        SilentRefreshAdapter(
            self.manager, self.resource.rpartition("/")[0], pool_maxsize=order["threads"]
        ).mount_on(self.session)
        self.threads = order["threads"]
        self.pause = order.get("pause", 0.0)
        self.ended = threading.Event()
        self.failures = []
        self.successes = []

    def run(self, seconds):
        """Send requests for ``seconds``, or until the input is closed."""
        running = [threading.Thread(target=self._work) for _ in range(self.threads)]
        for thread in running:
            thread.start()
        self.ended.wait(seconds)
        self.ended.set()
        for thread in running:
            thread.join()

    def _work(self):
        while not self.ended.is_set():
            began = time.time()
            # No public way shows the current token's expiry without starting a refresh.
            valid_until = self.manager._queue.current.expires_at
            try:
                status = self.session.get(self.resource, timeout=30).status_code
            except requests.RequestException as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                failure = None if status == 200 else f"status {status}"
            if failure is None:
                self.successes.append((began, time.time()))
            else:
                self.failures.append((began, time.time(), valid_until, failure))
            self.ended.wait(self.pause)


def main():
    """Execute the order in the first line of the input."""
    order = json.loads(sys.stdin.readline())
    host = Host(order)
    print("ready", flush=True)
    assert sys.stdin.readline() == "go\n"

    def read_on():
        for line in sys.stdin:
            host.stall.order = json.loads(line)
        host.ended.set()

    threading.Thread(target=read_on, daemon=True).start()
    host.run(order["seconds"])
    stats = host.manager.stats
    print(
        json.dumps(
            {
                "home": os.path.expanduser("~"),
                "requests": len(host.successes),
                "successes": host.successes if order.get("times") else [],
                "failures": host.failures,
                "exchanges": stats.exchanges,
                "adopted": stats.adopted,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
