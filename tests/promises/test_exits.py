"""P5: programs that leave in every way while the server holds an exchange.

``EXITS=200`` runs 200 programs: those with a name, and others with ways, signals and moments
drawn at random from a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from dataclasses import asdict, dataclass

import pytest
from processes.crowd import Told
from processes.leaver import KEY
from queue_kit import assert_no_token_was_spent_twice

from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, TokenManager

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")

EXITS = int(os.environ.get("EXITS", "0"))


@dataclass
class Exit:
    """How a program leaves; the words name the methods of ``processes.leaver.Program``."""

    leave: str = "return"
    begin: str = "background"
    handler: str = "nothing"
    at_exit: str = "nothing"
    managers: int = 1
    signals: tuple[int, ...] = ()
    pause: float = 0.0
    """Seconds between two signals."""
    held: int = 30
    """How many of the signals come before the server answers."""
    killed: bool = False
    """Whether the interpreter gets no chance to save."""


INT, TERM = (signal.SIGINT,), (signal.SIGTERM,)

NAMED = {
    "return": Exit(),
    "sys.exit": Exit("exit"),
    "an unhandled exception": Exit("raise"),
    "while a thread waits": Exit(begin="thread"),
    "several managers": Exit(managers=3),
    "one Ctrl-C": Exit(begin="main", signals=INT),
    "three Ctrl-C": Exit(begin="main", signals=INT * 3, pause=0.05),
    "thirty Ctrl-C": Exit(begin="main", signals=INT * 30, pause=0.005, held=20),
    "a burst of Ctrl-C": Exit(begin="main", signals=INT * 30),
    "a burst of Ctrl-C at several managers": Exit(managers=3, signals=INT * 30),
    "SIGTERM": Exit(signals=TERM, killed=True),
    "SIGKILL": Exit(signals=(signal.SIGKILL,), killed=True),
    "SIGTERM that exits": Exit(begin="main", handler="exit", signals=TERM * 2),
    "signals that are ignored": Exit(handler="ignored", signals=TERM + INT),
    "alarms that raise": Exit(handler="alarms"),
    "a request in an exit handler before ours": Exit(begin="at_exit", at_exit="before"),
    "a request in an exit handler after ours": Exit(begin="at_exit", at_exit="after"),
    "Ctrl-C in an exit handler": Exit(begin="at_exit", at_exit="before", signals=INT * 5),
    "exit handlers and an exchange": Exit("exit", at_exit="after", managers=2),
    "daemon pollers": Exit(begin="pollers"),
    "daemon pollers of several managers": Exit(begin="pollers", managers=2, at_exit="before"),
    "daemon pollers and Ctrl-C": Exit(begin="pollers", signals=INT * 10, pause=0.002, held=5),
    "a forked child": Exit(begin="fork"),
    "a spawned child": Exit(begin="spawn"),
    "os._exit": Exit("os_exit"),
    "os.execv": Exit("execv", managers=2),
    "a daemonising fork": Exit("daemonise"),
}


def drawn(seed):
    """Return a way to leave that is drawn at random."""
    draw = random.Random(seed)
    at_exit = draw.choice(["nothing", "before", "after"])
    handler, signals = draw.choice(
        [("nothing", ()), ("nothing", INT), ("exit", TERM), ("exit", INT + TERM), ("alarms", ())]
    )
    leave = draw.choice(["return", "exit", "raise", "os_exit", "execv"])
    begins = ["background", "thread", "fork"]
    if signals:
        begins += ["main"] * 3
    if leave not in ("os_exit", "execv"):  # no exit handlers run, so threads must have ended
        begins += ["pollers"]
        if at_exit != "nothing" and handler != "alarms":
            begins += ["at_exit"]
    return Exit(
        leave,
        draw.choice(begins),
        handler,
        at_exit,
        draw.choice([1, 2]),
        signals * draw.choice([1, 2, 3, 10, 30]),
        draw.choice([0, 0.0003, 0.003, 0.03]),
        draw.randrange(31),
    )


PROGRAMS = NAMED | {f"drawn {seed}": drawn(seed) for seed in range(EXITS - len(NAMED))}


@pytest.fixture(scope="module")
def programs():
    """The process from which the programs are forked."""
    with Told("processes.leaver", {}) as told:
        yield told


def leave(programs, server, order, way):
    """Run a program; return its exit status. The server answers after some of the signals."""
    with server.token_gate(processed=True) as held:
        process = programs.tell("fork " + json.dumps(order))
        if way.begin != "at_exit":
            assert held.arrived.wait(30)
        programs.tell("go")
        assert held.arrived.wait(30)
        pause = threading.Event()
        for number, sent in enumerate(way.signals):
            if number == way.held:
                held.release()
            os.kill(process, sent)
            pause.wait(way.pause)
        if not way.killed:
            held.release()
        return programs.tell("wait")


@pytest.mark.parametrize("way", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_every_token_that_was_granted_is_saved(server, programs, tmp_path, way):
    """P5: whatever ends a program during an exchange, its file has the token of every answer that
    was sent, and another process goes on with it; one that is killed leaves a whole file."""
    paths = [tmp_path / f"tokens-{number}" for number in range(way.managers)]
    stores = [EncryptedFileStore(path, KEY) for path in paths]
    for store in stores:
        store.save(server.sign_in_token(), after=None)
    errors = tmp_path / "errors"
    order = {
        **asdict(way),
        "paths": [str(path) for path in paths],
        "token_endpoint": server.token_endpoint,
        "errors": str(errors),
    }
    status = leave(programs, server, order, way)
    saved = [store.load().generation - 1 for store in stores]
    if way.killed:
        assert (status, saved) == (-way.signals[0], [0])
        return
    granted = server.counters.granted
    if way.leave == "daemonise":  # the grandchild saves a session of its own
        granted, saved = 3, [3]
    assert sum(saved) == granted > 0, (status, errors.read_text())
    if not way.signals and way.handler == "nothing":
        assert status == {"return": 0, "raise": 1}.get(way.leave, 3), errors.read_text()
    for store in stores:
        manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
        manager.renew(manager.token())
    assert server.counters.granted == granted + len(stores)
    assert_no_token_was_spent_twice(server)
