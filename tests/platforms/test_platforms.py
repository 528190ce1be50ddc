"""The programs of docs/platforms.rst, each on its platform: frozen, forked, interrupted, read-only.

Every test signs in once, lets the server revoke the access token early while requests are in
flight, and counts exchanges: one for each revocation, and no refresh token used twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from requests_silent_refresh import EncryptedFileStore, RedisStore

_INVOKE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from function import handler
for line in sys.stdin:
    print(json.dumps(handler({}, None)["access_token_serial"]), flush=True)
"""


def started(*command, **options):
    """Start a process of its own group, whose standard output is read line by line."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


@contextlib.contextmanager
def ended(process):
    """End the process, politely at first, when the body is over."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def signed_in(server, store):
    """Put a session of ``server`` into ``store``."""
    store.save(server.sign_in_token(), None)


def check(server, revocations):
    """One exchange for each revocation; nobody was signed off."""
    assert server.counters.granted == server.counters.exchanges == revocations
    assert server.counters.reuse_detections == 0


def test_a_function_that_is_frozen_between_invocations(server, program, surroundings, redis_server):
    """P1, P5: two instances are frozen in turn, and the token is revoked while both are."""
    redis_server.empty()
    surroundings["REDIS_URL"] = redis_server.url
    signed_in(server, RedisStore(redis_server.url, "report", key=surroundings["TOKEN_KEY"]))
    folder = str(program("function.py").parent)
    command = [sys.executable, "-c", _INVOKE, folder]
    with contextlib.ExitStack() as stack:
        instances = [
            stack.enter_context(ended(started(*command, stdin=subprocess.PIPE, env=surroundings)))
            for _ in range(2)
        ]

        def invoke(instance):
            instance.send_signal(signal.SIGCONT)
            instance.stdin.write("{}\n")
            instance.stdin.flush()
            answer = json.loads(instance.stdout.readline())
            instance.send_signal(signal.SIGSTOP)
            return answer

        stack.callback(lambda: [i.send_signal(signal.SIGCONT) for i in instances])
        assert [invoke(instance) for instance in instances] == [1, 1]
        for number in range(1, 5):
            server.revoke_access_tokens()
            answers = [invoke(instance) for instance in (instances[number % 2], *instances)]
            assert answers == [number + 1] * 3
        check(server, 4)


def test_gunicorn_forks_workers_after_the_manager_was_made(server, program, surroundings, tmp_path):
    """P1: four workers, one request each, forked from a master that imported the program."""
    store = EncryptedFileStore(tmp_path / ".local/state/site/tokens")
    with home(tmp_path):
        signed_in(server, store)
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "4"]
    command += ["--bind", "127.0.0.1:0", "--chdir", str(program("app.py").parent)]
    command += ["app:app"]
    with ended(started(*command, env=surroundings, stderr=subprocess.STDOUT)) as gunicorn:
        lines = iter(gunicorn.stdout.readline, "")
        url = next(m[1] for m in map(re.compile(r"Listening at: (\S+)").search, lines) if m)
        gate = server.gate(4, then=server.revoke_access_tokens)
        with ThreadPoolExecutor(24) as pool:
            statuses = pool.map(lambda _: requests.get(url, timeout=30).status_code, range(48))
        assert set(statuses) == {200}
        gate.wait()
    check(server, 1)


@contextlib.contextmanager
def home(path):
    """Run the body with another home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        yield


def test_celery_forks_children_for_tasks(server, program, surroundings, redis_server, tmp_path):
    """P1: four children of a prefork pool, all in flight when the token is revoked."""
    redis_server.empty()
    surroundings["REDIS_URL"] = redis_server.url
    signed_in(server, RedisStore(redis_server.url, "tasks", key=surroundings["TOKEN_KEY"]))
    folder = program("tasks.py").parent
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "4"]
    command += [
        "--without-mingle",
        "--without-gossip",
        "--without-heartbeat",
        "--loglevel",
        "ERROR",
    ]
    send = (
        "import json, tasks; results = [tasks.fetch.delay(f'/resource/{n}') for n in range(16)]; "
        "print(json.dumps([result.get(timeout=60) for result in results]))"
    )
    gate = server.gate(4, then=server.revoke_access_tokens)
    with (
        (tmp_path / "log").open("w") as errors,
        ended(started(*command, env=surroundings, cwd=folder, stderr=errors)),
    ):
        done = subprocess.run(
            [sys.executable, "-c", send],
            env=surroundings, cwd=folder, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    assert json.loads(done.stdout) == [f"/resource/{n}" for n in range(16)]
    assert gate.is_open
    check(server, 1)


def test_a_notebook_is_interrupted_during_a_refresh(server, program, surroundings, tmp_path):
    """P5: "Interrupt kernel" ends the cell, not the refresh, and the next cell goes on."""
    from jupyter_client.manager import KernelManager

    with home(tmp_path):
        signed_in(server, EncryptedFileStore(tmp_path / ".local/state/notebook/tokens"))
    kernel = KernelManager()
    kernel.start_kernel(env=surroundings)
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)

        def finished(request):
            reply = client.get_shell_msg(timeout=60)
            assert reply["parent_header"]["msg_id"] == request
            return reply["content"]["status"], reply["content"].get("ename")

        assert finished(client.execute(program("cell").read_text())) == ("ok", None)
        get = "assert session.get(API + '/resource').status_code == 200"
        assert finished(client.execute(get)) == ("ok", None)
        with server.token_gate() as gate:
            server.revoke_access_tokens()
            request = client.execute(get)
            assert gate.arrived.wait(30)
            kernel.interrupt_kernel()
            assert finished(request) == ("error", "KeyboardInterrupt")
        assert finished(client.execute(get)) == ("ok", None)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    check(server, 1)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and Linux's unshare"
)
def test_a_read_only_container_with_a_volume(server, program, surroundings):
    """Containers: no writable root, no home, a user that the system does not know, a volume."""
    with tempfile.TemporaryDirectory() as place:
        volume, key = Path(place, "volume"), Path(place, "key")
        job = shutil.copy(program("job.py"), place)
        key.write_text(surroundings["TOKEN_KEY"])
        signed_in(server, EncryptedFileStore(volume / "tokens", key=surroundings["TOKEN_KEY"]))
        for path in (volume, *volume.iterdir()):
            os.chown(path, 4711, 4711)
        environment = {k: v for k, v in surroundings.items() if k not in ("HOME", "USER")}
        environment |= {"VOLUME": str(volume), "KEY_FILE": str(key)}
        # The capability lets the user read this Python, wherever it is, and write nothing.
        run = (
            f"mount --bind {volume} {volume} && mount -o remount,bind,ro / && cd / && "
            "exec setpriv --reuid 4711 --regid 4711 --clear-groups "
            "--inh-caps +dac_read_search --ambient-caps +dac_read_search "
            f"{sys.executable} {job}"
        )
        for number in range(1, 3):
            server.revoke_access_tokens()
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", run],
                env=environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
            assert server.counters.granted == number
    check(server, 2)
