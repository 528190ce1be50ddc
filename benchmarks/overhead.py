"""The cost of a request with a fresh token: instructions, and CPU time on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import arms
from .crowd import median

FEW, MANY = 200, 700
_COLLECTED = re.compile(r"Collected\s*:\s*(\d+)")


def instructions() -> dict[str, Any]:
    """Count the instructions of one request over a stubbed transport, for every arm.

    valgrind counts them in separate processes. The result is the difference between
    many requests and few, which excludes start and imports. The counts do not depend on
    the load of the machine, so each core runs a process.
    """
    if shutil.which("valgrind") is None:
        return {"skipped": "valgrind is not installed"}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counting = {
            (trust_env, place, requests): pool.submit(_count, place, requests, trust_env)
            for trust_env in (False, True)
            for place in range(len(arms.ARMS))
            for requests in (FEW, MANY)
        }
        return {
            f"trust_env={trust_env}": {
                arm.name: (
                    counting[trust_env, place, MANY].result()
                    - counting[trust_env, place, FEW].result()
                )
                / (MANY - FEW)
                for place, arm in enumerate(arms.ARMS)
            }
            for trust_env in (False, True)
        }


def _count(place: int, requests: int, trust_env: bool) -> int:
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "benchmarks.overhead_probe"),
            *(str(place), str(requests), str(int(trust_env))),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    match = _COLLECTED.search(run.stderr)
    if match is None:
        raise RuntimeError(f"valgrind counted nothing: {run.stderr[-500:]}")
    return int(match[1])


def loopback(pairs: int = 15, requests: int = 600) -> dict[str, Any]:
    """Compare the CPU time of each arm's requests with the floor's; the server is another process.

    In a pair the arm and the floor alternate request by request, and swap the order each
    time, because within a second a machine's speed drifts by more than the difference
    that is measured. The result is the median of the pairs' ratios.
    """
    with _ServerElsewhere() as server:
        return {
            # Includes the floor against itself, which shows the deviation by chance alone.
            arm.name: _ratio(server, arm, pairs, requests)
            for arm in arms.ARMS
        }


def _ratio(server: Any, arm: arms.Arm, pairs: int, requests: int) -> dict[str, float]:
    floor, get = (a.make(server, server.answer) for a in (arms.FLOOR, arm))
    _pair(floor, get, server.resource, 200)
    found = sorted(_pair(floor, get, server.resource, requests) for _ in range(pairs))
    return {"median": median(found), "least": found[0], "most": found[-1]}


def _pair(floor: arms.Get, get: arms.Get, url: str, requests: int) -> float:
    base = theirs = 0.0
    for turn in range(requests):
        if turn % 2:
            theirs += _cpu(get, url)
            base += _cpu(floor, url)
        else:
            base += _cpu(floor, url)
            theirs += _cpu(get, url)
    return theirs / base


def _cpu(get: arms.Get, url: str) -> float:
    began = time.process_time()
    get(url)
    return time.process_time() - began


class _ServerElsewhere(arms.Address):
    """A server in another process, so that its CPU time is not counted; a context manager."""

    def __init__(self) -> None:
        """Do nothing: the server starts, and its address is known, at the ``with`` statement."""

    def __enter__(self) -> _ServerElsewhere:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        url, access_token, refresh_token = self._process.stdout.readline().split()
        super().__init__(url)
        self.answer = arms.long_lived(access_token, refresh_token)
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.communicate("stop\n", timeout=10)


_SERVE = """
import sys
from requests_silent_refresh.testing import AuthorizationServer
with AuthorizationServer(client_secret="secret", access_token_lifetime=86400) as server:
    answer = server.sign_in()
    print(server.url, answer["access_token"], answer["refresh_token"], flush=True)
    sys.stdin.readline()
"""
