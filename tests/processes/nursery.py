"""A process that imports everything once and forks workers on command.

Started by ``crowd.py``. It has no threads and no manager, so a forked worker is like a
new process but starts in a millisecond instead of half a second.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sys
import threading

import cryptography.fernet  # noqa: F401 (these three are loaded before the fork)
import filelock  # noqa: F401
import idna  # noqa: F401

from .client import Client


def work(order, gate):
    """Run a worker: its threads send requests until the gate opens.

    Without threads it sends a single request once the gate opens.
    """
    client = Client(order)
    ended = threading.Event()
    sent = []

    def run():
        while not ended.is_set():
            count(client.get())
            ended.wait(order["pause"])

    def count(outcome):
        if outcome.get("status") == 200:
            sent.append(1)
        else:
            client.notes.add("failed", **outcome)

    if order["threads"] == 0:
        client.notes.add("ready")
        os.read(gate, 1)
        count(client.get())
    else:
        running = [threading.Thread(target=run) for _ in range(order["threads"])]
        for thread in running:
            thread.start()
        os.read(gate, 1)
        ended.set()
        for thread in running:
            thread.join()
    stats = client.manager.stats
    client.notes.add("ended", requests=len(sent), exchanges=stats.exchanges, adopted=stats.adopted)


def main():
    """Execute the commands from the input: fork, kill and stop workers."""
    order = json.loads(sys.stdin.readline())
    gate, opener = os.pipe()
    children = set()
    gc.freeze()  # so that a child's garbage collector does not copy the parent's pages
    say({"ready": os.getpid()})
    for line in sys.stdin:
        command, *words = line.split()
        if command == "fork":
            child = os.fork()
            if child == 0:
                os.close(opener)
                work(order, gate)
                # An exit without the interpreter's slow cleanup: no public way runs only
                # the exit handlers.
                atexit._run_exitfuncs()
                os._exit(0)
            children.add(child)
            say({"forked": child})
        elif command == "kill":
            child = int(words[0])
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            children.remove(child)
            say({"killed": os.WIFSIGNALED(status)})
        elif command == "open":
            os.close(opener)
            statuses = [os.waitpid(child, 0)[1] for child in children]
            say({"statuses": statuses})


def say(answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
