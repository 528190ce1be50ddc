"""The cost of the encrypted file, and of the import."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from requests_silent_refresh import EncryptedFileStore, Token
from requests_silent_refresh.system import private_files

from .crowd import median


def file_store(rounds: int = 200, directory: Path | None = None) -> dict[str, Any]:
    """Compare ``load`` with a bare open, read and decrypt, and ``save`` with its own fsyncs.

    ``directory`` must be on the disk to be measured. If temporary files are kept in memory,
    an fsync costs nothing and the ratio is meaningless.
    """
    key = Fernet.generate_key()
    fernet = Fernet(key)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path = os.path.join(folder, "tokens")
        store = EncryptedFileStore(path, key=key)
        state = store.save(Token("a" * 900, "r" * 60, expires_at=2e9, issued_at=1.9e9), after=None)
        with open(path, "rb") as file:
            ciphertext = file.read().splitlines()[1]
        bare_path = os.path.join(folder, "bare")
        with open(bare_path, "wb") as file:
            file.write(ciphertext)

        def bare_load() -> None:
            with open(bare_path, "rb") as file:
                fernet.decrypt(file.read())

        def load() -> None:
            store.close()  # drops the cached state, so that the next load decrypts
            store.load()

        loads = _ratios(load, bare_load, rounds)
        saves, syncs = [], []
        for _ in range(rounds):
            with _timed_syncs() as sync:
                began = time.perf_counter()
                state = store.save(state.token or Token("a"), after=state)
                took = time.perf_counter() - began
            saves.append(took / sum(sync))
            syncs.append(sum(sync) / len(sync) * 1000)
    return {
        "load / bare load": median(loads),
        "save / its own fsyncs": median(saves),
        "an fsync here, milliseconds": median(syncs),
    }


@contextlib.contextmanager
def _timed_syncs() -> Iterator[list[float]]:
    """Record the seconds of each fsync of the store."""
    seconds: list[float] = []
    before = private_files.call

    def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if function is not os.fsync:
            return function(*args, **kwargs)
        began = time.perf_counter()
        function(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return None

    private_files.call = call  # type: ignore[assignment]
    try:
        yield seconds
    finally:
        private_files.call = before


def _ratios(ours: Callable[[], None], bare: Callable[[], None], rounds: int) -> list[float]:
    found = []
    for turn in range(rounds):
        times = {}
        for work in (ours, bare) if turn % 2 else (bare, ours):
            began = time.perf_counter()
            work()
            times[work] = time.perf_counter() - began
        found.append(times[ours] / times[bare])
    return found


def import_cost(rounds: int = 15) -> dict[str, Any]:
    """Measure the milliseconds that imports add to ``import requests``, in fresh interpreters.

    The package loads its names on first use, so the second figure is the cost for a program
    that uses all of them.
    """
    names = "EncryptedFileStore, RefreshTokenGrant, SilentRefreshAdapter, Token, TokenManager"
    imports = {
        "import requests_silent_refresh": "import requests_silent_refresh",
        "and the names of the README's example": f"from requests_silent_refresh import {names}",
    }
    with tempfile.TemporaryDirectory() as bytecode:
        for line in imports.values():
            _took(line, bytecode)  # compiles the modules, as an installation does
        return {
            name: median([_took(line, bytecode) for _ in range(rounds)])
            for name, line in imports.items()
        }


def _took(line: str, bytecode: str) -> float:
    script = (
        f"import time, requests; began = time.perf_counter(); {line}; "
        "print((time.perf_counter() - began) * 1000)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env=environment
    )
    return float(ran.stdout)
