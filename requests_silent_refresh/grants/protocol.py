"""The interface between the manager and the callable that refreshes its tokens."""

from __future__ import annotations

from typing import Any, Protocol

from .. import arguments
from ..token import Token

EXCHANGE_TIMEOUT = 30.0  # seconds


class Refresh(Protocol):
    """Any callable that exchanges a token for a new one.

    It raises ``SessionExpired`` if the server refused the token for good,
    ``requests.RequestException`` if trying again may help, and anything else if the set-up is
    wrong. Optional attributes: ``rotates`` (whether an exchange spends the refresh token; by
    default ``True``), ``needs_sign_in`` (whether it needs an existing token; ``True``),
    ``needs_refresh_token`` (whether that must have a refresh token; ``False``),
    ``refuses_early`` (whether the server refuses a refresh before the last seconds of a token;
    ``False``), ``timeout`` (seconds in total, after which the call is abandoned; 30),
    ``revoke(token)``, ``identity`` (a ``str`` that names the server and the client, without
    secrets: a stored session of another identity is never used; ``None``, the default, accepts
    any).
    """

    def __call__(self, token: Token | None, /) -> Token:
        """Exchange ``token``, which is ``None`` if there is none and none is needed.

        If the returned token has no refresh token, the old refresh token stays valid (RFC 6749
        section 6), unless ``needs_sign_in`` is ``False``.
        """
        ...


def followed_by(exchanged: Token | None, granted: Token) -> Token:
    """Return ``granted``, with the refresh token of ``exchanged`` if it has none of its own.

    The built-in grants do this themselves. Without it, a user's callable that reads only the
    access token from the answer would end the session at the second refresh.
    """
    if exchanged is None or granted.refresh_token is not None or exchanged.refresh_token is None:
        return granted
    return granted.twin(refresh_token=exchanged.refresh_token)


def timeout_of(refresh: Refresh) -> float:
    """Return the callable's own ``timeout`` in seconds, or the default if it has none."""
    timeout: Any = getattr(refresh, "timeout", None)
    if timeout is None:
        return EXCHANGE_TIMEOUT
    arguments.seconds(**{"the refresh callable's timeout": timeout})
    return float(timeout)
