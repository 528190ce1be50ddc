"""What a request costs with a fresh token: instructions, and CPU time on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import Any

from . import arms
from .crowd import median

FEW, MANY = 200, 700
_COLLECTED = re.compile(r"Collected\s*:\s*(\d+)")


def instructions() -> dict[str, Any]:
    """Instructions for one request over a stubbed transport, ours against a fixed header.

    Counted by valgrind in processes of their own, as the difference between
    many requests and few, so that start and import do not count.
    """
    if shutil.which("valgrind") is None:
        return {"skipped": "valgrind is not installed"}
    found: dict[str, Any] = {}
    for name, trust_env in (("trust_env=False", "0"), ("trust_env=True", "1")):
        each = {
            arm: (_count(arm, MANY, trust_env) - _count(arm, FEW, trust_env)) / (MANY - FEW)
            for arm in ("plain", "ours")
        }
        found[name] = {**each, "ratio": each["ours"] / each["plain"]}
    return found


def _count(arm: str, requests: int, trust_env: str) -> int:
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "benchmarks.overhead_probe", arm, str(requests), trust_env),
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


def loopback(pairs: int = 11, requests: int = 300) -> dict[str, Any]:
    """CPU time of this process for requests to a server in another, every arm against the floor.

    Each arm's batch stands beside a batch of the floor, in turns that change
    sides; the figure is the median of the ratios.
    """
    ratios: dict[str, float] = {}
    with _ServerElsewhere() as server:
        for arm in arms.ARMS[1:]:
            floor, get = (a.make(server, server.answer) for a in (arms.FLOOR, arm))  # type: ignore[arg-type]
            _cpu(floor, server.resource, 50)
            _cpu(get, server.resource, 50)
            found = []
            for turn in range(pairs):
                if turn % 2:
                    theirs = _cpu(get, server.resource, requests)
                    base = _cpu(floor, server.resource, requests)
                else:
                    base = _cpu(floor, server.resource, requests)
                    theirs = _cpu(get, server.resource, requests)
                found.append(theirs / base)
            ratios[arm.name] = median(found)
    return ratios


def _cpu(get: arms.Get, url: str, requests: int) -> float:
    began = time.process_time()
    for _ in range(requests):
        get(url)
    return time.process_time() - began


class _ServerElsewhere:
    """The server in a process of its own, so that its CPU time is not ours."""

    def __enter__(self) -> _ServerElsewhere:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        url, access_token, refresh_token = self._process.stdout.readline().split()
        self.url = url
        self.resource = url + "/resource"
        self.token_endpoint = url + "/token"
        self.answer = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_at": time.time() + 86400,
        }
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
