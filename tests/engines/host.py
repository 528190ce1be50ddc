"""A host of the fleet: a process with its own home directory, whose threads send requests.

Started by ``fleet.py``. Reads its order as JSON from the first line of its input. Ends
after the given time, or when its input is closed, and writes a report as JSON.
"""

from __future__ import annotations

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


def store_of(url):
    """Open the fleet's store."""
    kind = RedisStore if url.startswith("redis") else SQLStore
    return kind(url, "fleet", key=FromEnvironment("FLEET_KEY"))


class Host:
    """Threads that send requests until told to stop, and the outcome of each request."""

    def __init__(self, order):
        grant = RefreshTokenGrant(order["token_endpoint"], "client")
        self.manager = TokenManager(
            grant, store=store_of(order["store"]), wait_timeout=order["wait_timeout"]
        )
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
        sys.stdin.read()
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
