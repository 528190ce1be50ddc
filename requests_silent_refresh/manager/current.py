"""The token that all threads use, and from when on it is refreshed."""

from __future__ import annotations

import dataclasses
import math
import random

from ..stores.contract import State
from ..token import Token

AHEAD_CAP = 300.0
LEEWAY_CAP = 5.0
LEEWAY_FRACTION = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Current:
    """The state that all threads use now, with its times worked out. Immutable.

    Published by one attribute assignment and compared by identity, so no thread ever sees
    half of two tokens and the hot path needs no lock. All times are Unix seconds by the
    manager's clock; infinity if the expiry is unknown, minus infinity if there is no token.
    """

    state: State | None
    token: Token | None
    due_at: float = -math.inf
    """From then on a refresh runs in the background."""
    wait_at: float = -math.inf
    """From then on a request waits for the refresh."""
    expires_at: float = -math.inf
    """From then on the token is of no use, not even while the token endpoint is down."""


NOT_LOADED = Current(None, None)
"""Stands for the time before the store was first read."""


def current_of(state: State | None, refresh_ahead: float, now: float) -> Current:
    """Work out when the state's token is due.

    ``refresh_ahead`` is a fraction of the token's lifetime; 0 turns it off. The background
    refresh begins at most 5 minutes before the expiry, with a jitter of a fifth, so that a
    fleet does not refresh at one moment. The hard leeway is 5 s, but never more than a
    twentieth of the lifetime: a token that lives shorter than the leeway would otherwise be
    refreshed for ever.
    """
    token = None if state is None else state.token
    if token is None:
        return Current(state, None)
    expires_at = token.expires_at
    issued_at = token.issued_at
    if expires_at is None or (issued_at is not None and expires_at <= issued_at):
        # Unknown, or expired on arrival ("expires_in": 0, which some servers send for
        # "never"): the 401 decides.
        return Current(state, token, math.inf, math.inf, math.inf)
    lifetime = expires_at - (now if issued_at is None else issued_at)
    if lifetime <= 0:
        return Current(state, token, expires_at, expires_at, expires_at)
    wait_at = expires_at - min(LEEWAY_CAP, LEEWAY_FRACTION * lifetime)
    ahead = min(refresh_ahead * lifetime, AHEAD_CAP) * random.uniform(0.8, 1.0)  # noqa: S311
    return Current(state, token, min(wait_at, expires_at - ahead), wait_at, expires_at)
