"""Starting, killing and waiting for servers."""

from __future__ import annotations

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
    """Return a port of 127.0.0.1 that is free now, and also while its server is down.

    Below the ports that the kernel gives to connections: one of these might have it by then.
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


def wait_until(condition, what, timeout=PATIENCE, every=0.02):
    """Wait until ``condition()`` is true, looking every some milliseconds; return what it gave."""
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        pause.wait(every)


def unprivileged(user):
    """Return what makes a child process run as ``user``, where we are root; else nothing."""
    if os.geteuid() != 0:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def directory_for(user):
    """Make a directory that ``user`` can get to, where we are root; pytest's are closed to it."""
    directory = tempfile.mkdtemp(prefix="engine-")
    if os.geteuid() == 0:
        shutil.chown(directory, user, user)
    return Path(directory)


class Server:
    """A server process: ``start``, ``kill`` (SIGKILL) and start again, on one port."""

    def __init__(self, directory):
        self.directory = directory
        self.port = free_port()
        self.process = None

    def command(self):
        """Return the command line."""
        raise NotImplementedError

    def options(self):
        """Return more arguments of ``Popen``."""
        return {}

    def answers(self):
        """Say whether it serves clients."""
        raise NotImplementedError

    def start(self):
        """Start it and wait until it answers."""
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
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self):
        """End it in order; SIGKILL where that takes long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
