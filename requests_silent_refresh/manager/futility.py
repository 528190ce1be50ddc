"""Noticing that a refresh does not help: an endpoint that rejects every token."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from requests import PreparedRequest

from ..origin import Origin
from ..system.forking import reset_in_child
from ..token import Token

FIRST_MUTE = 5.0
MUTE_CAP = 60.0
FUTILE_PER_MINUTE = 6
MINUTE = 60.0
PATHS_REMEMBERED = 256
# Seconds between two exchanges beyond those for paths that have rejected no token before.
EXTRA_EVERY = 10.0


class _Path:
    """What is known of one path that rejected a fresh token."""

    __slots__ = ("muted_until", "strikes", "token")

    def __init__(self) -> None:
        self.strikes = 0
        self.token: Token | None = None
        self.muted_until = -math.inf


class FutilityGuard:
    """Remembers which paths rejected fresh tokens, and stops refreshes that would not help.

    A fresh token that is rejected once means nothing: servers that reckon in whole seconds
    issue tokens that are dead on arrival. A second one in a row at the same path is futile.
    The path is muted then, for 5 s at first and for up to 60 s, doubled by each further
    one. After 6 futile exchanges within a minute, no path may ask for more, but for one
    exchange every 10 s for a path that has rejected none before.

    A real revocation must get through all that. It differs from a bad path in one thing:
    the rejected token had been accepted at the very path that now rejects it. Then that
    path may refresh, and all other paths are unmuted. A path that accepted the token before
    this one, and has rejected none, may refresh too.

    A token counts once for each path, however many requests carried it. Both memories are
    bounded; a path that was forgotten costs two exchanges. The lock guards all fields and
    is held for nothing else. It is reentrant, for a signal handler that sends a request.
    ``active`` is read without it: as long as nothing has been futile, an accepted request
    costs one look at it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.active = False
        self._monotonic = monotonic
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew with a lock of its own; what was learnt is forgotten."""
        self._lock = threading.RLock()
        self._paths: OrderedDict[str, _Path] = OrderedDict()
        self._accepted: OrderedDict[str, Token] = OrderedDict()
        self._futile: deque[float] = deque(maxlen=FUTILE_PER_MINUTE)
        self._extra: tuple[Token | None, float] = (None, -math.inf)
        self.active = False

    def allows(self, path: str, token: Token) -> bool:
        """Say whether ``path`` may ask for a refresh because it rejected ``token``."""
        if not self.active:
            return True
        with self._lock:
            if self._accepted.get(path) is token:
                for known in self._paths.values():
                    known.muted_until = -math.inf
                return True
            suspect = self._paths.get(path)
            if suspect is None and path in self._accepted:
                return True
            if suspect is not None and self._monotonic() < suspect.muted_until:
                return False
            return not self._is_spent() or (suspect is None and self._allows_extra(token))

    def _allows_extra(self, token: Token) -> bool:
        """Say whether a path that is not known may ask for another ``token``; needs the lock held.

        All that ask because of one token share one exchange.
        """
        known, since = self._extra
        if token is not known and self._monotonic() - since >= EXTRA_EVERY:
            self._extra = known, _ = (token, self._monotonic())
        return token is known

    def _is_spent(self) -> bool:
        """Say whether the last minute saw all the futile exchanges it may; needs the lock held."""
        return (
            len(self._futile) == FUTILE_PER_MINUTE and self._monotonic() - self._futile[0] < MINUTE
        )

    def rejected(self, path: str, token: Token) -> None:
        """Note that ``path`` rejected ``token``, which a refresh had just returned."""
        with self._lock:
            self._accepted.pop(path, None)
            known = self._paths.setdefault(path, _Path())
            self._paths.move_to_end(path)
            if len(self._paths) > PATHS_REMEMBERED:
                self._paths.popitem(last=False)
            if known.token is token:
                return
            known.token = token
            known.strikes += 1
            self.active = True
            if known.strikes > 1:
                now = self._monotonic()
                self._futile.append(now)
                doublings = min(known.strikes - 2, 10)  # it stops before it overflows
                known.muted_until = now + min(MUTE_CAP, FIRST_MUTE * 2.0**doublings)

    def accepted(self, path: str, token: Token) -> None:
        """Note that ``path`` accepted ``token``; only needed while :attr:`active`."""
        with self._lock:
            self._paths.pop(path, None)
            if not self._paths and not self._is_spent():
                self._accepted.clear()
                self.active = False
                return
            self._accepted[path] = token
            self._accepted.move_to_end(path)
            if len(self._accepted) > PATHS_REMEMBERED:
                self._accepted.popitem(last=False)


def place_of(request: PreparedRequest) -> str:
    """Return the origin and path of a request, by which rejections are counted."""
    return (request.url or "").partition("#")[0].partition("?")[0]


def upload_places(request: PreparedRequest) -> tuple[str, str]:
    """Return where an upload's rejections are counted: its path, and its origin's uploads.

    The second is needed because each upload often has a path of its own and is sent
    only once: if every token is rejected, each upload would ask for a refresh.
    """
    return place_of(request), f"uploads to {Origin.of(request.url)}"
