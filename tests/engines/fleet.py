"""A fleet: several hosts, as processes that share only the store's engine."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from .processes import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

#: Seconds for which the long tests run; their claims do not depend on it.
SECONDS = float(os.environ.get("FLEET_SECONDS", "3"))

KEY = "k" * 43 + "="


class Fleet:
    """Hosts that start together and report together; a context manager that ends them."""

    def __init__(self, tmp_path, server, store_url, wait_timeouts, **order):
        self.processes = []
        self.wait_timeouts = wait_timeouts
        self.homes = [tmp_path / f"host-{number}" for number in range(len(wait_timeouts))]
        self.order = order | {
            "store": store_url,
            "resource": server.resource,
            "token_endpoint": server.token_endpoint,
        }

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        for home, wait_timeout in zip(self.homes, self.wait_timeouts, strict=True):
            home.mkdir()
            process = subprocess.Popen(
                [sys.executable, "-m", "engines.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=home,
                env=environment(home),
            )
            self.processes.append(process)
            self._say(process, json.dumps({**self.order, "wait_timeout": wait_timeout}))
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            self._say(process, "go")

    def _say(self, process, line):
        process.stdin.write(line + "\n")
        process.stdin.flush()

    def stall(self, claim, **order):
        """Have the host that comes first to a step stop the engine; return when it did, and until.

        ``claim`` is a path that does not exist.
        """
        for process in self.processes:
            self._say(process, json.dumps({**order, "claim": str(claim)}))
        ready, _, _ = select.select([p.stdout for p in self.processes], [], [], PATIENCE)
        (said,) = ready
        return json.loads(said.readline())

    def reports(self):
        """Wait until all hosts have ended by themselves; return their reports."""
        return [json.loads(process.stdout.readline()) for process in self.processes]

    def stop(self):
        """End the hosts and return their reports."""
        for process in self.processes:
            process.stdin.close()
        return self.reports()

    def __exit__(self, *exception):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)
            process.stdin.close()
            process.stdout.close()


def environment(home):
    kept = {name: os.environ[name] for name in ("PATH", "CI", "LANG") if name in os.environ}
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *(p for p in sys.path if p)])
    return {
        **kept,
        **coverage,
        "HOME": str(home),
        "FLEET_KEY": KEY,
        "PYTHONPATH": path,
    }
