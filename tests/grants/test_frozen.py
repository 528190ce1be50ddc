"""P5, P8: a process that is stopped in the middle of an exchange loses no answer."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from requests_silent_refresh.system.awake_time import AwakeTime

ROUNDS = int(os.environ.get("FROZEN_ROUNDS", "1"))
"""How often each step is tried. The long run stops the process for up to 60 s."""
LONGEST = 60.0 if ROUNDS > 1 else 1.5
TIMEOUT = 3.0 if ROUNDS > 1 else 0.8

CLIENT = """
import sys
from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, SessionExpired
from requests_silent_refresh import SilentRefreshError, Token, TokenManager

url, path, timeout = sys.argv[1:]
key = b"A" * 43 + b"="
grant = RefreshTokenGrant(url, "c", timeout=float(timeout))
manager = TokenManager(grant, EncryptedFileStore(path, key=key), wait_timeout=70)
manager.sign_in(Token("old", "r1"))
token = manager.token()
while True:
    try:
        print(manager.renew(token).refresh_token.reveal())
        break
    except SessionExpired:
        print("lost")
        break
    except SilentRefreshError:
        pass
"""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# Where the client is stopped: how much of the answer has arrived before.
STEPS = ("request", "head", "half", "all")


class Server:
    """A token endpoint without grace that stops its client in the middle of an exchange."""

    def __init__(self, step: str, *, chunked: bool) -> None:
        self.step = step
        self.chunked = chunked
        self.live = "r1"
        self.reused = 0
        self.client: subprocess.Popen[str] | None = None
        self.started = threading.Event()
        self.sent = threading.Event()
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/token"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        while b"refresh_token=" not in data:
            data += connection.recv(65536)
        spent = parse_qs(data.partition(b"\r\n\r\n")[2].decode())["refresh_token"][0]
        if spent != self.live:
            self.reused += 1
            body = b'{"error": "invalid_grant"}'
            connection.sendall(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            connection.sendall(body)
            return
        self.live = "r2"
        body = json.dumps({"access_token": "new", "refresh_token": "r2"}).encode()
        if self.chunked:
            half = b"%x\r\n%s\r\n" % (5, body[:5])
            rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) - 5, body[5:])
            head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            half, rest = body[:5], body[5:]
            head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
        for step, piece in zip(STEPS, (head, half, rest, b""), strict=True):
            if step == self.step:
                self._stop_client()
            connection.sendall(piece)
        self.sent.set()

    def _stop_client(self) -> None:
        assert self.client is not None or self.started.wait(30)
        assert self.client is not None
        os.kill(self.client.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.client.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    step, chunked = request.param
    running = Server(step, chunked=chunked)
    yield running
    running.close()


@pytest.mark.parametrize(
    "server", [(s, c) for s in STEPS for c in (False, True)], indirect=True, ids=str
)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_an_answer_that_arrived_is_used(server: Server, tmp_path: Path, number: int) -> None:
    """P5: the server has rotated and answered; the client wakes long after its deadline."""
    seconds = LONGEST if ROUNDS == 1 else random.uniform(1.0, LONGEST)
    arguments = [server.url, str(tmp_path / "tokens"), str(TIMEOUT)]
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, text=True
    ) as client:
        server.client = client
        server.started.set()
        assert server.sent.wait(30)
        threading.Event().wait(seconds)
        os.kill(client.pid, signal.SIGCONT)
        out, _ = client.communicate(timeout=60)
    assert out.split() == ["r2"]
    assert server.reused == 0


def test_time_in_which_the_process_is_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P8: the rest of the limit is left after a stop, and a moment at least."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def waited(late: float = 0.0) -> float:
        step = limit.next_step()
        now[0] += step + late
        return step

    limit = AwakeTime(1.0)
    assert [waited() for _ in range(5)] == [0.25, 0.25, 0.25, 0.25, 0]
    limit = AwakeTime(0.5)
    assert [waited(60.0), waited(), waited(), waited(), waited()] == [0.25, 0.25, 0.25, 0.25, 0]
    limit = AwakeTime(0.5)
    busy = [waited(0.2) for _ in range(10)]
    assert busy[-1] == 0
    assert sum(map(bool, busy)) < 5
