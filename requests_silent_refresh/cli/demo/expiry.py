"""One expiry of the demo: the token is revoked while every thread has a request in flight."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from ...manager.manager import TokenManager
from ...testing.server import AuthorizationServer
from .crowd import Crowd


@dataclasses.dataclass(frozen=True)
class Phase:
    """A count to show, and when it is final."""

    name: str
    count: Callable[[], int]
    is_over: Callable[[], bool]
    meaning: str

    def line(self) -> str:
        """Return the line to show now."""
        return f"  {self.name:<10}{self.count():>5}  {self.meaning}"


class Expiry:
    """One expiry. It begins when the object is created; then iterate over :meth:`phases`.

    ``gate`` holds requests in the server until one from each thread is in flight.
    Then the server revokes the access token that all of them carry, and answers.
    All counts start from zero at creation.
    """

    def __init__(self, server: AuthorizationServer, manager: TokenManager, crowd: Crowd) -> None:
        self._server = server
        self._manager = manager
        self._crowd = crowd
        self._counters = server.counters
        self._stats = manager.stats
        self._finished = list(crowd.finished)
        self.gate = server.gate(len(crowd.finished), self._end_the_token)

    def phases(self) -> Iterator[Phase]:
        """Yield the phases, in the order in which they end."""
        threads = len(self._crowd.finished)
        yield Phase(
            "rejected",
            self.rejected,
            lambda: self.rejected() >= threads or self.is_over(),
            "got a 401: the server revoked the token while all were in flight",
        )
        yield Phase(
            "waiting",
            lambda: self._manager.stats.waits - self._stats.waits,
            lambda: self.refreshed() > 0 or self.is_over(),
            "for one exchange",
        )
        yield Phase(
            "refreshed",
            self.refreshed,
            lambda: self.refreshed() > 0 or self.is_over(),
            "exchange granted, and saved before the token is used",
        )
        yield Phase(
            "replayed",
            lambda: self._manager.stats.replays - self._stats.replays,
            self.is_over,
            "with the new token",
        )

    def rejected(self) -> int:
        """Return the number of 401s so far."""
        return self._server.counters.rejected - self._counters.rejected

    def refreshed(self) -> int:
        """Return the number of exchanges granted so far."""
        return self._server.counters.granted - self._counters.granted

    def is_over(self) -> bool:
        """Return whether each thread whose token was revoked has an answer, good or bad."""
        return self.gate.is_open and all(
            now > before for now, before in zip(self._crowd.finished, self._finished, strict=True)
        )

    def give_up(self) -> None:
        """Release the requests that are being held, without revoking the token."""
        self.gate.release()

    def _end_the_token(self) -> None:
        # No count changes now, because each thread has a request in flight.
        self._finished = list(self._crowd.finished)
        self._server.revoke_access_tokens()
