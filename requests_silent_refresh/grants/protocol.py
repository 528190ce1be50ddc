"""What the manager refreshes with: a grant, or any callable that does the same."""

from __future__ import annotations

import math
from typing import Protocol

from ..token import Token

EXCHANGE_TIMEOUT = 30.0


class Refresh(Protocol):
    """What exchanges a token for a new one: any callable.

    It raises ``SessionExpired`` where the server refused the token for good,
    ``requests.RequestException`` where the server could not be reached, and
    anything else for a wrong set-up. Optional attributes say more: ``rotates``
    (``True`` if absent), ``needs_sign_in`` (``True``), ``timeout`` (30 seconds
    in all, after which the call is left behind), ``revoke(token)``.
    """

    def __call__(self, token: Token | None, /) -> Token:
        """Exchange ``token``; ``None`` where there is none and none is needed.

        A token that is returned without a refresh token leaves the old one in
        force (RFC 6749 section 6), unless ``needs_sign_in`` is ``False``.
        """
        ...


def followed_by(exchanged: Token | None, granted: Token) -> Token:
    """Return ``granted``, with the refresh token of ``exchanged`` where it brought none.

    The grants do so themselves. A callable of the user's that reads nothing but an
    access token from the answer would otherwise end the session at the second refresh.
    """
    if exchanged is None or granted.refresh_token is not None or exchanged.refresh_token is None:
        return granted
    # Not dataclasses.replace: a subclass of the user's may be made in another way.
    twin = object.__new__(type(granted))
    vars(twin).update(vars(granted), refresh_token=exchanged.refresh_token)
    return twin


def timeout_of(refresh: Refresh) -> float:
    """Read the callable's own deadline in seconds, if it has one."""
    timeout: object = getattr(refresh, "timeout", None)
    if timeout is None:
        return EXCHANGE_TIMEOUT
    if not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ValueError("the refresh callable's timeout is a number of seconds above zero")
    return timeout
