"""``python -m benchmarks [--quick] [--output DIRECTORY] [PART ...]``: run, then write a report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from . import expiries, hundred, overhead, report, stores, storm, waiting

PARTS: dict[str, Callable[[bool, Path], Any]] = {
    "instructions": lambda quick, out: overhead.instructions(),
    "loopback": lambda quick, out: overhead.loopback(pairs=3 if quick else 15),
    "storm": lambda quick, out: {
        str(scenario): storm.run(scenario, rounds=1 if quick else 5) for scenario in storm.SCENARIOS
    },
    "trouble": lambda quick, out: {
        str(scenario): storm.run(scenario, rounds=1 if quick else 5) for scenario in storm.TROUBLED
    },
    "processes": lambda quick, out: {
        f"4 processes of 8 threads, revoked early 3 times, token endpoint {latency * 1000:g} ms": (
            storm.processes(latency)
        )
        for latency in ((0.05,) if quick else (0.05, 1.0))
    },
    "early revocation": lambda quick, out: storm.early_revocation_against_no_auth(
        rounds=3 if quick else 9
    ),
    "refresh ahead": lambda quick, out: expiries.refresh_ahead(pairs=2 if quick else 11),
    "wake-up": lambda quick, out: waiting.wake_up(rounds=3 if quick else 9),
    "memory": lambda quick, out: {
        **waiting.memory(1000 if quick else 10_000),
        "bytes a waiter holds": waiting.memory_of_a_waiter()["difference"],
    },
    "file store": lambda quick, out: stores.file_store(40 if quick else 200, out),
    "hundred processes": lambda quick, out: hundred.last_served(1 if quick else 5, directory=out),
    "import": lambda quick, out: stores.import_cost(5 if quick else 15),
    "picture": lambda quick, out: expiries.picture(str(out / "latency.png")),
}
# Names for several parts at once.
GROUPS = {"overhead": ["instructions", "loopback"]}


def main() -> None:
    """Run the given parts (default: all), then write ``results.json`` and ``results.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join([*PARTS, *GROUPS]))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, to check that it runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    chosen = [name for part in arguments.parts for name in GROUPS.get(part, [part])]
    unknown = set(chosen) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": _machine()}
    for name in chosen or PARTS:
        began = time.monotonic()
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        results[name] = PARTS[name](arguments.quick, arguments.output)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (arguments.output / "results.md").write_text(text)
    print(text)


def _machine() -> dict[str, Any]:
    packages = "requests urllib3 singleflight-auth requests-oauthlib Authlib requests-oauth2client"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in (*packages.split(), "google-auth")},
    }


if __name__ == "__main__":
    main()
