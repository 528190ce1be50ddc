"""Faults on demand: what can be wrong with an answer, and for how many requests."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from .answers import Answer, header_pairs

TARGETS = ("token", "json", "revoke", "resource")

_GARBAGE = b"<html><title>Sign in to the hotel's network</title><p>Not what you asked for.</html>"


@dataclasses.dataclass
class Fault:
    """What is wrong with the next answers of ``target``; see ``AuthorizationServer.fault``.

    Made and spent under the lock of :class:`Faults`; only ``times`` changes.
    """

    target: str
    times: int | None = 1
    path: str | None = None
    status: int | None = None
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    body: bytes | str | None = None
    delay: float = 0.0
    trickle: float | None = None
    trickle_head: float | None = None
    drop: Literal["before", "after"] | None = None
    garbage: bool = False
    huge: bool = False
    redirect: str | None = None
    raw: bytes | None = None
    processed: bool = False

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"a fault is for one of {', '.join(TARGETS)}, not {self.target!r}")
        if self.drop not in (None, "before", "after"):
            raise ValueError("drop is 'before' or 'after' (the request was processed)")

    @property
    def replaces(self) -> bool:
        """Whether the answer is made up here, rather than the real one, only late or slow."""
        made_up = (self.status, self.body, self.redirect, self.raw, self.drop)
        return self.garbage or self.huge or any(part is not None for part in made_up)

    @property
    def lets_process(self) -> bool:
        """Whether the request is processed (tokens are rotated) all the same."""
        return self.processed or self.drop == "after" or not self.replaces

    @property
    def name(self) -> str:
        """What an event calls this fault."""
        if self.drop:
            return f"drop {self.drop}"
        for name in ("raw", "redirect", "huge", "garbage"):
            if getattr(self, name):
                return name
        if self.status is not None or self.body is not None:
            return f"status {self._status}"
        return "trickle" if self.trickle or self.trickle_head else "delay"

    @property
    def _status(self) -> int:
        return self.status or (302 if self.redirect else 200)

    def spoil(self, real: Answer | None) -> Answer:
        """Return the answer to give; ``real`` is ``None`` where the request was not processed."""
        answer = self._made_up() if real is None or self.replaces else real
        return answer.but(
            headers=header_pairs(answer.headers) + header_pairs(self.headers),
            delay=self.delay,
            trickle=self.trickle or answer.trickle,
            trickle_head=self.trickle_head or answer.trickle_head,
        )

    def _made_up(self) -> Answer:
        if self.drop:
            return Answer(drop=True)
        if self.raw is not None:
            return Answer(raw=self.raw)
        headers: list[tuple[str, str]] = []
        body: bytes | Iterable[bytes] = b""
        if self.redirect is not None:
            headers.append(("Location", self.redirect))
        if self.huge:
            headers.append(("Content-Type", "application/json"))
            body = _endless()
        elif self.garbage:
            headers.append(("Content-Type", "text/html"))
            body = _GARBAGE
        if self.body is not None:
            body = self.body.encode() if isinstance(self.body, str) else self.body
        return Answer(self._status, headers, body)


def _endless() -> Iterator[bytes]:
    """Yield an access token that never ends."""
    yield b'{"access_token": "'
    while True:
        yield b"a" * 65536


class Faults:
    """The faults in force. Thread-safe; each request spends at most one, the oldest that fits."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Put ``fault`` in force, behind those that are."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Take all faults out of force."""
        with self._lock:
            self._faults.clear()

    def take(self, target: str, path: str) -> Fault | None:
        """Spend the fault that is meant for this request; ``None`` where there is none."""
        with self._lock:
            for fault in self._faults:
                if fault.target == target and fault.path in (None, path):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self._faults.remove(fault)
                    return fault
        return None
