"""A hundred processes that find one expired token at once, compared with a hundred that only read.

The control does the minimum: one process posts to the token endpoint and replaces the
file, and the others check the file as often as this library checks the lock, then read
and decrypt it. All processes are forked from one that has imported everything, have
already read the expired token, and start together.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from cryptography.fernet import Fernet

from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, Token, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

from .arms import KEY
from .crowd import median


def last_served(
    rounds: int = 5, processes: int = 100, latency: float = 0.1, directory: Path | None = None
) -> dict[str, Any]:
    """Measure the seconds until the last process has the new token, for both arms."""
    took: dict[str, list[float]] = {"ours": [], "control": []}
    exchanges = 0
    for turn in range(rounds):
        for arm in ("ours", "control") if turn % 2 else ("control", "ours"):
            with (
                tempfile.TemporaryDirectory(dir=directory) as folder,
                AuthorizationServer(latency=latency) as server,
            ):
                answer = server.sign_in()
                path = os.path.join(folder, "tokens")
                expired = Token.from_response({**answer, "expires_at": time.time() - 1})
                EncryptedFileStore(path, KEY).save(expired, None)
                arguments = [arm, server.token_endpoint, path, answer["refresh_token"]]
                took[arm].append(_run([*arguments, str(processes)]))
                exchanges += server.counters.exchanges if arm == "ours" else 0
    ratios = [ours / control for ours, control in zip(*took.values(), strict=True)]
    return {
        "processes": processes,
        "exchanges of ours": exchanges,
        "rounds": rounds,
        "ours, seconds": median(took["ours"]),
        "control, seconds": median(took["control"]),
        "ours / control": median(ratios),
        "ratios": ratios,
    }


def _run(arguments: list[str]) -> float:
    command = [sys.executable, "-m", __name__, *arguments]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


# The rest runs in the process that forks the others, and in those.


def main(arm: str, token_endpoint: str, path: str, refresh_token: str, processes: str) -> None:
    """Fork the processes, start them together, and print the seconds that the last one took."""
    count = int(processes)
    ready, says_ready = os.pipe()
    gate, opener = os.pipe()
    served, says_served = os.pipe()
    for number in range(count):
        if os.fork() == 0:
            with _exiting():
                os.close(opener)
                # In the control, the process that writes is neither the first nor the last forked.
                exchanges = number == count // 2
                work = _ours if arm == "ours" else _control
                wait = work(token_endpoint, path, refresh_token, exchanges)
                os.write(says_ready, b".")
                os.read(gate, 1)
                wait()
                os.write(says_served, b"%20.6f" % time.monotonic())
    for _ in range(count):
        os.read(ready, 1)
    began = time.monotonic()
    os.close(opener)
    print(max(float(os.read(served, 20)) for _ in range(count)) - began)
    for _ in range(count):
        if os.wait()[1] != 0:
            raise SystemExit("a process failed")


@contextlib.contextmanager
def _exiting() -> Iterator[None]:
    """Exit this process at the end of the block, also after an exception."""
    try:
        yield
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # reached only after an exception
        os._exit(1)


def _ours(
    token_endpoint: str, path: str, refresh_token: str, exchanges: bool
) -> Callable[[], object]:
    store = EncryptedFileStore(path, KEY)
    manager = TokenManager(RefreshTokenGrant(token_endpoint, "client"), store, wait_timeout=60)
    assert manager.signed_in
    return manager.token


def _control(
    token_endpoint: str, path: str, refresh_token: str, exchanges: bool
) -> Callable[[], object]:
    fernet = Fernet(KEY)

    def read() -> bytes:
        with open(path, "rb") as file:
            return fernet.decrypt(file.read().splitlines()[-1])

    def poll() -> bytes:
        while os.stat(path).st_ino == before.st_ino:
            time.sleep(random.uniform(0.005, 0.025))
        return read()

    def write() -> None:
        endpoint = urlsplit(token_endpoint)
        connection = http.client.HTTPConnection(endpoint.netloc)
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": "client",
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", endpoint.path, urlencode(form), headers)
        answer = connection.getresponse().read()
        with open(path + ".new", "wb") as file:
            file.write(fernet.encrypt(answer))
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)

    before = os.stat(path)
    read()
    return write if exchanges else poll


if __name__ == "__main__":
    import filelock  # noqa: F401 (imported before the fork, like everything else)

    main(*sys.argv[1:])
