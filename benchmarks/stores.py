"""What the encrypted file costs, and the import."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from cryptography.fernet import Fernet

from requests_silent_refresh import EncryptedFileStore, Token

from .crowd import median


def file_store(rounds: int = 200) -> dict[str, Any]:
    """``load`` against a bare open, read and decrypt; ``save`` against its fsyncs; interleaved."""
    key = Fernet.generate_key()
    fernet = Fernet(key)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "tokens")
        store = EncryptedFileStore(path, key=key)
        state = store.save(Token("a" * 900, "r" * 60, expires_at=2e9, issued_at=1.9e9), after=None)
        with open(path, "rb") as file:
            ciphertext = file.read().splitlines()[1]
        bare_path = os.path.join(directory, "bare")
        with open(bare_path, "wb") as file:
            file.write(ciphertext)

        def bare_load() -> None:
            with open(bare_path, "rb") as file:
                fernet.decrypt(file.read())

        def load() -> None:
            store.close()  # forgets what it read, so that it decrypts again
            store.load()

        loads = _ratios(load, bare_load, rounds)
        saves = []
        for _ in range(rounds // 4):
            began = time.perf_counter()
            state = store.save(state.token or Token("a"), after=state)
            took = time.perf_counter() - began
            saves.append(took / _syncs(directory, os.path.getsize(path)))
    return {"load / bare load": median(loads), "save / its fsyncs": median(saves)}


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


def _syncs(directory: str, size: int) -> float:
    """Seconds for what a save cannot do without: sync a new file, rename it, sync the directory."""
    source, target = os.path.join(directory, "s"), os.path.join(directory, "t")
    began = time.perf_counter()
    fd = os.open(source, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"x" * size)
    os.fsync(fd)
    os.close(fd)
    os.replace(source, target)
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - began


def import_cost(rounds: int = 15) -> dict[str, Any]:
    """Milliseconds that the import adds to ``import requests``; median of fresh interpreters."""
    script = (
        "import time, requests; began = time.perf_counter(); import requests_silent_refresh; "
        "print((time.perf_counter() - began) * 1000)"
    )
    took = [
        float(
            subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
        )
        for _ in range(rounds)
    ]
    return {"milliseconds": median(took)}
