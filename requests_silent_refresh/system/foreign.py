"""What may be told of other people's code: types and places, no text, which may quote secrets."""

from __future__ import annotations

from typing import Any

from ..redaction import Secret, is_ours, masked
from ..token import Token


def account_of(error: BaseException, *tokens: Token | None) -> str:
    """Say what an exception is and where it was raised: ``KeyError at app.py:12``.

    Only an exception of this package is quoted, with the secrets of ``tokens`` masked:
    other people's code may raise one as well.
    """
    if is_ours(type(error)):
        return masked(str(error), secrets_of(*tokens))
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
    return type(error).__name__ + where


def name_of(thing: Any) -> str:
    """Return the ``repr`` of an object of this package, else the name of its type or function.

    The ``repr`` of a ``functools.partial`` or of somebody's dataclass shows what it holds.
    """
    if is_ours(type(thing)):
        return repr(thing)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def secrets_of(*tokens: Token | None) -> list[Secret]:
    """Return everything secret in the tokens, for masking."""
    known: list[Secret] = []
    for token in tokens:
        if token is not None:
            known += [s for s in (token.access_token, token.refresh_token) if s is not None]
            known += [Secret(value) for value in token.extra.values() if isinstance(value, str)]
    return known
