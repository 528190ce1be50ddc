"""The hooks and fixtures of the stores' contract suite, and a second process."""

# ruff: noqa: S101 (a test suite uses assert)

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..stores.contract import Hold, State, TokenStore
from ..token import Token

PATIENCE = 30.0  # seconds; only a failing test waits this long

ACCESS_TOKEN = "canary-access-0a1b2c3d"  # noqa: S105 (the tests search for it)
REFRESH_TOKEN = "canary-refresh-4e5f6071"  # noqa: S105

_NEIGHBOUR = """
import gc, os, pickle, sys
from requests_silent_refresh import Token
store = pickle.loads(bytes.fromhex(sys.stdin.readline()))()
hold = None
print("ready", flush=True)
for line in sys.stdin:
    command, *words = line.split()
    if command == "hold":
        hold = store.exclusive(float(words[0]))
        if "begin" in words:
            hold.begin(store.load())
        answer = "held"
    elif command == "fork":
        child = os.fork()
        if not child:
            hold.release()  # of the child's copy only
            del hold
            gc.collect()
            os._exit(0)
        answer = f"child ended with {os.waitpid(child, 0)[1]}"
    elif command == "save-on":
        print("saving", flush=True)
        state = store.load()
        while True:
            padding = list(range(60_000 + state.generation % 7 * 1_000))  # takes time to write
            state = store.save(Token(f"token-{len(padding)}", "r", extra={"p": padding}), state)
    elif command == "release":
        hold.release()
        answer = "released"
    elif command == "load":
        state = store.load()
        answer = f"{state.lineage} {state.generation} {state.token.access_token.reveal()}"
    elif command == "save":
        answer = str(store.save(Token(words[0], "r"), store.load()).generation)
    print(answer, flush=True)
"""


class Neighbour:
    """Another process that has opened the same store and executes commands."""

    def __init__(self, opener: Callable[[], TokenStore]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(  # noqa: S603 (the current interpreter)
            [sys.executable, "-c", _NEIGHBOUR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.tell(pickle.dumps(opener).hex()) == "ready"

    def tell(self, command: str) -> str:
        """Run a command and return the reply.

        ``hold SECONDS [begin]``, ``release``, ``load``, ``save TOKEN``, ``fork`` (a child that
        gives up its copy of the lock and ends), or ``save-on`` (until it is killed).
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a crash would."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End the process by closing its input."""
        self.process.communicate(timeout=PATIENCE)


def taken(store: TokenStore, after: State | None) -> Hold:
    """Take the exclusive lock and return its hold; blocks for at most ``PATIENCE`` seconds."""
    hold = store.exclusive(PATIENCE, after)
    assert hold is not None
    return hold


class StoreFixtures:
    """The hooks and fixtures that the contract's tests share."""

    watched = 1.5
    """Seconds for which a lock must be kept by an exchange that takes as long. If your store's
    lease has a fixed length, make this longer than that."""

    def make_store(self, tmp_path: Path) -> TokenStore:
        """Return a store in which nothing was ever stored. Must be overridden."""
        raise NotImplementedError

    def opener(self, store: TokenStore) -> Callable[[], TokenStore]:
        """Return a picklable callable that opens the same store again."""
        return functools.partial(pickle.loads, pickle.dumps(store))

    def reopen(self, store: TokenStore) -> TokenStore:
        """Open the same store a second time; returns ``store`` itself if it is not shared."""
        return self.opener(store)() if store.shared else store

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TokenStore]:
        """The store under test."""
        store = self.make_store(tmp_path)
        yield store
        store.close()

    @pytest.fixture
    def signed_in(self, store: TokenStore) -> State:
        """The state after a sign-in."""
        return store.save(Token(ACCESS_TOKEN, REFRESH_TOKEN, expires_at=1800000000.0), None)

    @pytest.fixture
    def neighbour(self, store: TokenStore, signed_in: State) -> Iterator[Neighbour]:
        """Another process that uses the same store."""
        if not store.shared:
            pytest.skip("this store is not shared with other processes")
        neighbour = Neighbour(self.opener(store))
        yield neighbour
        if neighbour.process.poll() is None:
            neighbour.close()
