"""Starts a crowd of processes on one file, kills some of them, and reads their notes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from requests_silent_refresh.keys import generate_key

from .client import Notes, read_notes

TESTS = Path(__file__).resolve().parents[1]

#: Seconds for which the long tests run; their claims do not depend on it.
SECONDS = float(os.environ.get("STORM_SECONDS", "5"))

PATIENCE = 120.0  # seconds; only a test that hangs waits this long

KEY = generate_key()


class Told:
    """A process that answers each line with a line of JSON; a context manager that ends it.

    It leads its own process group, so its children are killed with it. If it gives no
    answer for ``PATIENCE`` seconds, the whole group is killed and the test fails.
    """

    def __init__(self, module, order):
        self._lock = threading.Lock()
        path = [str(TESTS), *(p for p in sys.path if p)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )
        self.tell(json.dumps(order))

    def tell(self, line):
        """Send ``line`` and return the answer."""
        with self._lock:
            guard = threading.Timer(PATIENCE, self._kill)
            guard.start()
            try:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            finally:
                guard.cancel()
        assert answer, f"{self.process.args} gave no answer to {line[:20]!r}"
        return json.loads(answer)

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            self._kill()
        self.process.stdin.close()  # the process ends at the end of its input
        try:
            self.process.wait(PATIENCE)
        finally:
            self._kill()
            self.process.stdout.close()


class Crowd:
    """A crowd of processes: their order and their notes."""

    def __init__(self, directory, server, *, path=None, threads=1, pause=0.05, **options):
        self.path = path or directory / "tokens"
        self._notes_path = directory / "notes"
        self._notes = Notes(self._notes_path)
        self.order = {
            "path": str(self.path),
            "notes": str(self._notes_path),
            "key": KEY,
            "resource": server.resource,
            "token_endpoint": server.token_endpoint,
            "threads": threads,
            "pause": pause,
            "options": options,
        }

    def nursery(self):
        """Start a process that forks workers."""
        return Told("processes.nursery", self.order)

    def client(self, **options):
        """Start a process that sends a request for each ``get``; ``options`` go to its manager."""
        return Told("processes.client", {**self.order, "options": options})

    def kill(self, nursery, process):
        """Kill a worker, as a crash would; noted first, because its lock may then become free."""
        self._notes.add("killing", process)
        assert nursery.tell(f"kill {process}") == {"killed": True}

    def notes(self, kind=None):
        """Return the crowd's notes in order, or only those of one kind."""
        return [note for note in read_notes(self._notes_path) if kind in (None, note["kind"])]

    def wait_for(self, kind, count):
        """Wait until there are ``count`` notes of ``kind``; fails after ``PATIENCE`` seconds."""
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        while len(self.notes(kind)) < count:
            assert time.monotonic() < deadline, self.notes()[-5:]
            pause.wait(0.02)

    def assert_one_holder_at_a_time(self):
        """Assert that holds of the lock do not overlap; return how often it was taken.

        A holder that was killed may be followed by another without ``released``.
        """
        holder, killed, count = None, set(), 0
        for note in self.notes():
            if note["kind"] == "taken":
                assert holder is None or holder in killed, (holder, note)
                holder = note["process"]
                count += 1
            elif note["kind"] == "released" and note["process"] == holder:
                holder = None
            elif note["kind"] == "killing":
                killed.add(note["process"])
        return count

    def assert_no_generation_falls(self):
        """Assert that generations rise within a lineage, and that an ended one never returns."""
        lineage, generation, past = None, 0, set()
        for note in self.notes("saved"):
            if note["lineage"] != lineage:
                assert note["lineage"] not in past, note
                past.add(lineage)
                lineage, generation = note["lineage"], 0
            assert note["generation"] > generation, note
            generation = note["generation"]
