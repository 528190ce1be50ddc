"""Faults on demand: what is wrong with an answer, and for how many requests."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Literal

from .answers import Answer, Headers, header_pairs

TARGETS = ("token", "json", "revoke", "resource")

_GARBAGE = b"<html><title>Sign in to the hotel's network</title><p>Not what you asked for.</html>"


@dataclasses.dataclass
class Fault:
    """What is wrong with the next answers of ``target``; see ``AuthorizationServer.fault``.

    Only ``times`` changes, with the lock of :class:`Faults` held.
    """

    target: str
    times: int | None = 1
    path: str | None = None
    status: int | None = None
    headers: Headers = ()
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
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {self.target!r}")
        if self.drop not in (None, "before", "after"):
            raise ValueError("drop must be 'before' or 'after' (the request is processed)")

    @property
    def replaces(self) -> bool:
        """Whether the fault replaces the real answer, rather than only delaying or slowing it."""
        replaced = (self.status, self.body, self.redirect, self.raw, self.drop)
        return self.garbage or self.huge or any(part is not None for part in replaced)

    @property
    def lets_process(self) -> bool:
        """Whether the request is still processed (and tokens are rotated)."""
        return self.processed or self.drop == "after" or not self.replaces

    @property
    def name(self) -> str:
        """The name of this fault in events."""
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
        """Return the answer to send; ``real`` is ``None`` if the request was not processed."""
        answer = self._replacement() if real is None or self.replaces else real
        return answer.but(
            headers=header_pairs(answer.headers) + header_pairs(self.headers),
            delay=self.delay,
            trickle=self.trickle or answer.trickle,
            trickle_head=self.trickle_head or answer.trickle_head,
        )

    def _replacement(self) -> Answer:
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
    """Yield JSON whose access token never ends."""
    yield b'{"access_token": "'
    while True:
        yield b"a" * 65536


class Faults:
    """The active faults. Thread-safe; each request uses at most one, the oldest that matches."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Activate ``fault``, after those already active."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, target: str, path: str) -> Fault | None:
        """Return the fault for this request and count it down; ``None`` without one."""
        with self._lock:
            for fault in self._faults:
                if fault.target == target and fault.path in (None, path):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self._faults.remove(fault)
                    return fault
        return None
