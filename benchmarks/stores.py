"""What the encrypted file costs, and the import."""

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
    """``load`` against a bare open, read and decrypt; ``save`` against its own fsyncs.

    ``directory`` lies on the disk to be measured; where temporary files are kept in
    memory a sync costs nothing, and the ratio says nothing.
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
            store.close()  # forgets what it read, so that it decrypts again
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
    """Have the seconds noted that each fsync of the store takes."""
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
    """Milliseconds that imports add to ``import requests``; medians of fresh interpreters.

    The names are loaded when they are used, so the second figure is what a program
    pays that uses them all.
    """
    names = "EncryptedFileStore, RefreshTokenGrant, SilentRefreshAdapter, Token, TokenManager"
    imports = {
        "import requests_silent_refresh": "import requests_silent_refresh",
        "and all that the quick start uses": f"from requests_silent_refresh import {names}",
    }
    with tempfile.TemporaryDirectory() as bytecode:
        for line in imports.values():
            _took(line, bytecode)  # compiles, as an installation does
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
