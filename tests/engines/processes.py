"""Starting, killing and waiting for servers."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PATIENCE = 60.0  # seconds; only a failing test waits that long


def free_port():
    """Return a free port of 127.0.0.1 that stays free while its server is down.

    It is below the kernel's ephemeral ports, which a connection could take meanwhile.
    """
    choice = random.SystemRandom()  # other processes may seed the module's as this one does
    while True:
        port = choice.randrange(15000, 32000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition, what):
    """Poll until ``condition()`` is true.

    Raises ``TimeoutError``, which names ``what``, after ``PATIENCE`` seconds.
    """
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        pause.wait(0.02)


def unprivileged(user):
    """Return the ``Popen`` arguments that run a child as ``user``; none unless we are root."""
    if os.geteuid() != 0:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def directory_for(user):
    """Make a directory that belongs to ``user`` if we are root; pytest's are closed to it."""
    directory = tempfile.mkdtemp(prefix="engine-")
    if os.geteuid() == 0:
        shutil.chown(directory, user, user)
    return Path(directory)


def freeze(pid):
    """Stop a process and its children (SIGSTOP) until :func:`thaw`."""
    _signal_all(pid, signal.SIGSTOP)


def thaw(pid):
    """Let them continue."""
    _signal_all(pid, signal.SIGCONT)


def _signal_all(pid, number):
    os.kill(pid, number)  # first, so that it starts no more children
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), number)


class Server:
    """A server process that can be killed (SIGKILL) and started again on the same port."""

    def __init__(self, directory):
        self.directory = directory
        self.port = free_port()
        self.process = None

    def command(self):
        """Return the command line."""
        raise NotImplementedError

    def options(self):
        """Return additional arguments for ``Popen``."""
        return {}

    def answers(self):
        """Return whether the server serves clients."""
        raise NotImplementedError

    def start(self):
        """Start the server and wait until it answers."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.directory, **self.options()
            )
        wait_until(self._up, type(self).__name__)
        return self

    def _up(self):
        if self.process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text()[-2000:])
        return self.answers()

    def kill(self):
        """Kill the server, as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self):
        """Shut the server down with SIGINT; after 10 s with SIGKILL."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
