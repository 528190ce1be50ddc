"""Programs that leave in some way, forked from a process that has imported everything.

Started by ``test_exits.py``, which sends ``fork`` with the order of a program, ``go``, and
``wait``. A forked program returns from ``main`` or raises out of it, so the interpreter ends
as it does in a program of its own.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading

LATE = []
"""What the exit handler does that was registered before the package's own, and runs after it."""

KEY = b"k" * 43 + b"="


def managers_of(order):
    """Return a manager for each file of the order."""
    from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, TokenManager

    grant = RefreshTokenGrant(order["token_endpoint"], "client")
    return [
        TokenManager(grant, EncryptedFileStore(path, KEY), refresh_ahead=0)
        for path in order["paths"]
    ]


def in_a_child(order):
    """Leave a child of ``multiprocessing`` while its refreshes are under way."""
    for manager in managers_of(order):
        manager.start_refresh(manager.token())


class Program:
    """A program that begins exchanges and leaves, as its order says."""

    def __init__(self, order, gate):
        self.order = order
        self.managers = managers_of(order)
        self._gate = gate

    def run(self):
        signal.alarm(100)  # fails instead of hanging
        getattr(self, "handle_" + self.order["handler"])()
        if self.order["at_exit"] == "before":
            LATE.append(self.renew)
        elif self.order["at_exit"] == "after":
            atexit.register(self.renew)
        getattr(self, "begin_" + self.order["begin"])()
        os.read(self._gate, 1)
        if self.order["handler"] == "alarms":
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        getattr(self, "leave_" + self.order["leave"])()

    def renew(self):
        for manager in self.managers:
            manager.renew(manager.token())

    def poll(self):
        import requests

        while True:
            try:
                self.renew()
            except requests.RequestException:
                continue

    # -- what a signal does --------------------------------------------------------

    def handle_nothing(self):
        pass

    def handle_exit(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))

    def handle_ignored(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def handle_alarms(self):
        def time_out(*_):
            raise TimeoutError

        signal.signal(signal.SIGALRM, time_out)

    # -- what begins the exchange --------------------------------------------------

    def begin_at_exit(self):
        pass  # the exit handler does

    def begin_background(self):
        for manager in self.managers:
            manager.start_refresh(manager.token())

    def begin_main(self):
        self.renew()

    def begin_thread(self):
        threading.Thread(target=self.renew).start()

    def begin_pollers(self):
        for _ in range(4):
            threading.Thread(target=self.poll, daemon=True).start()

    def begin_fork(self):
        multiprocessing.get_context("fork").Process(target=in_a_child, args=(self.order,)).start()

    def begin_spawn(self):
        multiprocessing.get_context("spawn").Process(target=in_a_child, args=(self.order,)).start()

    # -- how it leaves -------------------------------------------------------------

    def leave_return(self):
        pass

    def leave_exit(self):
        sys.exit(3)

    def leave_raise(self):
        raise LookupError

    def finish(self):
        for manager in self.managers:
            assert manager.finish()

    def leave_os_exit(self):
        self.finish()
        os._exit(3)

    def leave_execv(self):
        self.finish()
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"])

    def leave_daemonise(self):
        """Go on in a grandchild with a session in memory that this process refreshes first."""
        from requests_silent_refresh import MemoryStore, RefreshTokenGrant, TokenManager

        self.finish()
        grant = RefreshTokenGrant(self.order["token_endpoint"], "client")
        memory = TokenManager(grant, MemoryStore(), refresh_ahead=0)
        memory.sign_in(self.managers[0].token())
        memory.start_refresh(memory.token())
        memory.finish()
        for _ in range(2):
            if os.fork():
                os._exit(3)
            os.setsid()
        memory.take_over()
        memory.renew(memory.token())
        self.managers[0].sign_in(memory.token())
        os._exit(0)


def forked(order, gate):
    """Return the program of ``order``, in a process whose errors go to a file."""
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, replaced in ((null, 0), (null, 1), (errors, 2)):
        os.dup2(number, replaced)
    return Program(order, gate)


def main():
    """Execute the commands from the input."""
    atexit.register(lambda: [late() for late in LATE])
    json.loads(sys.stdin.readline())
    import processes.client  # noqa: F401 (loads what every program needs)

    answer("ready")
    for line in sys.stdin:
        command, _, order = line.strip().partition(" ")
        if command == "fork":
            gate, opener = os.pipe()
            alive, ends = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(alive)
                os.close(opener)
                forked(json.loads(order), gate).run()
                return
            os.close(gate)
            os.close(ends)
            answer(child)
        elif command == "go":
            os.close(opener)
            answer("gone")
        elif command == "wait":
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.read(alive, 1)  # returns at the end of the last process that the program has forked
            os.close(alive)
            answer(status)


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
