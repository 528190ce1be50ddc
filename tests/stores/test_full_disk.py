"""The disk is full from the moment the server answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes.crowd import KEY, PATIENCE, Crowd, Told

from requests_silent_refresh import EncryptedFileStore
from requests_silent_refresh.testing import AuthorizationServer

# More than a refresh reserves: only the save of such an answer finds the disk full.
TOO_MUCH = 60_000


class Disk:
    """A small separate file system in memory that can be filled completely."""

    def __init__(self, folder):
        self.folder = folder
        self.tokens = folder / "tokens"
        self.ballast = folder / "ballast"

    def fill(self):
        with open(self.ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(self.folder).f_bavail == 0

    def make_room(self):
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def server(disk):
    """A server that fills the disk before each answer."""
    with AuthorizationServer() as server:
        server.padding = 0

        def answer_to_a_full_disk(request, answer):
            disk.fill()
            return answer.but(payload={**answer.payload, "id_token": "x" * server.padding})

        server.on("/token", answer_to_a_full_disk)
        yield server


@pytest.fixture
def crowd(tmp_path, server, disk):
    crowd = Crowd(tmp_path, server, path=disk.tokens)
    EncryptedFileStore(crowd.path, KEY).save(server.sign_in_token(), None)
    return crowd


GOOD = {"status": 200}


def keep_asking(client):
    """Send requests until one succeeds."""
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while (outcome := client.tell("get")) != GOOD:
        assert time.monotonic() < deadline, outcome
        pause.wait(0.1)


def test_the_answer_is_saved_in_the_reserved_room(crowd, server, disk):
    """P4: on a full disk the answer is saved; the next refresh fails before it is sent."""
    with crowd.client() as one, crowd.client() as other:
        server.revoke_access_tokens()
        assert one.tell("get") == other.tell("get") == GOOD
        assert server.counters.exchanges == 1

        disk.fill()  # including reserved room that was not used
        server.revoke_access_tokens()
        refused = other.tell("get")
        assert refused["error"] == "StoreUnavailable"
        assert "No space left on device" in refused["message"]
        assert server.counters.exchanges == 1  # the refresh token was not sent

        disk.make_room()
        keep_asking(other)
        assert one.tell("get") == GOOD
        assert server.counters.exchanges == server.counters.granted == 2
        assert server.counters.sign_ins == 1


def test_an_answer_larger_than_its_room_is_used_from_memory(crowd, server, disk):
    """P4: the process that refreshed continues; the others get an error that names it.

    The spent token is never sent, and the session survives two exchanges that could not be
    saved. When there is room again, all processes continue.
    """
    server.padding = TOO_MUCH
    with (
        crowd.client() as one,
        crowd.client(wait_timeout=3.0) as other,
        crowd.client(wait_timeout=3.0) as third,
        ThreadPoolExecutor(2) as pool,
    ):
        process = one.process.pid
        for exchanges in (1, 2):
            server.revoke_access_tokens()
            assert one.tell("get") == one.tell("get") == GOOD
            assert server.counters.exchanges == exchanges
            for refused in pool.map(Told.tell, (other, third), ("get", "get")):
                assert refused["error"] == "StoreUnavailable"
                assert refused["holder"].startswith(f"process {process} on ")
                assert refused["holder"] in refused["message"]
            assert server.counters.exchanges == exchanges

        disk.make_room()
        for client in (other, third, one):
            keep_asking(client)
        assert server.counters.exchanges == server.counters.granted == 2
        assert server.counters.reuse_detections == 0
        assert server.counters.sign_ins == 1
    crowd.assert_one_holder_at_a_time()
    crowd.assert_no_generation_falls()
    EncryptedFileStore(crowd.path, KEY).exclusive(5.0).release()  # removes leftovers
    assert sorted(os.listdir(disk.folder)) == ["tokens", "tokens.lock", "tokens.write.lock"]
