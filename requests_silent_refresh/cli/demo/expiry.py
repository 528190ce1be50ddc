"""One expiry of the demo: the token ends under everybody's request, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from ...manager.manager import TokenManager
from ...testing.server import AuthorizationServer
from .crowd import Crowd


@dataclasses.dataclass(frozen=True)
class Phase:
    """What is counted, and when the count is final."""

    name: str
    count: Callable[[], int]
    is_over: Callable[[], bool]
    meaning: str


class Expiry:
    """Begins when it is made; :meth:`phases` then come one after the other.

    The server holds requests until one of every thread is in flight, ends the
    access token that all of them carry, and answers. All counts are differences
    to the beginning. ``gate`` is what holds them.
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
        """Yield the phases, in the order in which they come to an end."""
        everybody = len(self._crowd.finished)
        yield Phase(
            "rejected",
            self.rejected,
            lambda: self.rejected() >= everybody or self.is_over(),
            "got a 401: the server ended the token while all were in flight",
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
            "exchange granted, and saved before anybody uses it",
        )
        yield Phase(
            "replayed",
            lambda: self._manager.stats.replays - self._stats.replays,
            self.is_over,
            "with the new token",
        )

    def rejected(self) -> int:
        """401s so far."""
        return self._server.counters.rejected - self._counters.rejected

    def refreshed(self) -> int:
        """Exchanges granted so far."""
        return self._server.counters.granted - self._counters.granted

    def is_over(self) -> bool:
        """Whether everybody whose token was ended has an answer, good or bad."""
        return self.gate.is_open and all(
            now > before for now, before in zip(self._crowd.finished, self._finished, strict=True)
        )

    def give_up(self) -> None:
        """Hold no request any longer."""
        self.gate.release()

    def _end_the_token(self) -> None:
        # Nobody's count moves now: everybody has a request in flight.
        self._finished = list(self._crowd.finished)
        self._server.revoke_access_tokens()
