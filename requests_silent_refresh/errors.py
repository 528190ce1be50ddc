"""The exceptions that this package raises.

::

    requests.exceptions.RequestException
     +-- SilentRefreshError
          +-- SessionExpired      (also requests.exceptions.HTTPError)
          +-- RefreshFailed
          +-- RefreshUnavailable
          +-- RefreshTimeout      (also requests.exceptions.Timeout)
          +-- InsecureTransport
          +-- StoreError
               +-- WrongKey
               +-- WrongIdentity
               +-- StoreCorrupted
               +-- StoreUnavailable

An existing ``except requests.RequestException`` therefore keeps working. Programs branch
on the type and the attributes; the message is for people and says what to do next. No
error holds a token or the token endpoint's response, and neither does its cause. A wrong
argument raises a plain ``ValueError`` or ``TypeError`` at construction.

Each waiting thread raises an exception object of its own, because raising one object in
many threads mixes their tracebacks. They share ``__cause__``.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from requests.exceptions import HTTPError, RequestException, Timeout

_DESCRIPTION_LIMIT = 200

_Error = TypeVar("_Error", bound="SilentRefreshError")


def printable(text: str) -> str:
    """Replace each character that could control a terminal or start a line by a space.

    These are all control characters (C0, C1), line separators, and the invisible characters of
    Unicode that reorder text.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def cleaned(text: object) -> str | None:
    """Make a server's text safe for one line of a terminal or log: printable and bounded.

    Returns ``None`` for anything but text.
    """
    if not isinstance(text, str) or not text:
        return None
    return " ".join(printable(text[: 4 * _DESCRIPTION_LIMIT]).split())[:_DESCRIPTION_LIMIT] or None


def _seconds(value: object) -> float | None:
    """Read a ``Retry-After`` as a callable passes it on; ``None`` for anything but a number."""
    try:
        seconds = float(value)  # type: ignore[arg-type]  # raises TypeError for other types
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


class SilentRefreshError(RequestException):
    """Base class of this package's exceptions.

    >>> try:
    ...     raise RefreshUnavailable("the token endpoint answered 503", retry_after=5.0)
    ... except SilentRefreshError as error:
    ...     print(f"{type(error).__name__}, try again in {error.retry_after} s")
    RefreshUnavailable, try again in 5.0 s

    ``error`` and ``error_description``
        The token endpoint's fields (RFC 6749 section 5.2), without control characters
        and cut to 200 characters; ``None`` if it sent none.
    ``status_code``
        The HTTP status of the token endpoint's response; ``None`` without one.
    ``retry_after``
        Seconds until the next refresh attempt: this package's backoff, or the server's
        ``Retry-After`` if that is longer. ``None`` if waiting does not help. A header's text
        is read as a number; text that is none counts as ``None``.
    ``response``
        The resource server's 401, if there was one; a ``SessionExpired`` that a request
        raises without being sent has an empty 401 made for it. Never the token endpoint's
        response, which holds secrets and a connection.
    ``request``
        The caller's request that failed, without the token, so that a program can
        resume there; ``None`` if no request was being sent.

    Pickling keeps everything but ``request`` and ``response``, which hold cookies, open
    files and a connection.
    """

    def __init__(
        self,
        message: str = "",
        *,
        error: str | None = None,
        error_description: str | None = None,
        status_code: int | None = None,
        retry_after: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*([message] if message else []), **kwargs)
        self.error = cleaned(error)
        self.error_description = cleaned(error_description)
        self.status_code = status_code
        self.retry_after = _seconds(retry_after)

    def again(self: _Error) -> _Error:
        """Return a copy for another thread to raise, with the same attributes and cause."""
        twin: _Error = _revive(type(self), self.args, vars(self))
        twin.__cause__ = self.__cause__
        return twin

    __copy__ = again

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in vars(self).items() if k not in ("request", "response")}
        return _revive, (type(self), self.args, {**state, "request": None, "response": None})


def _revive(kind: type[_Error], args: tuple[Any, ...], state: dict[str, Any]) -> _Error:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


class SessionExpired(SilentRefreshError, HTTPError):
    """The session cannot be refreshed; a new sign-in is needed.

    Raised if the server refused the refresh token (``error`` is then
    ``"invalid_grant"`` or the server's equivalent) or the store holds no session, and
    for every request after that until ``manager.sign_in`` is called, here or in another
    process that shares the store. A refusal by the server or a sign-out causes it; a
    network problem never does.
    """


class RefreshFailed(SilentRefreshError):
    """The refresh failed in a way that retrying will not fix.

    The set-up is wrong: ``invalid_client``, ``unauthorized_client``, a 404, a redirect,
    or a ``refresh`` callable that raised. The session is kept; fix the configuration.
    """


class RefreshUnavailable(SilentRefreshError):
    """The token endpoint could not be reached, or answered that it is busy.

    Transient: the session is kept, and requests made after ``retry_after`` seconds (the
    server's ``Retry-After`` or this package's backoff) try again.
    """


class RefreshTimeout(SilentRefreshError, Timeout):
    """A refresh took longer than the manager's ``wait_timeout`` (10 s by default).

    The exchange continues in the background, and a late result is saved and used, so the
    next request may succeed.
    """


class InsecureTransport(SilentRefreshError):
    """The token would have been sent over a connection that others can read.

    Tokens are sent only over https, or over loopback if no proxy applies to the request
    (RFC 6750 section 5.3).
    """


class StoreError(SilentRefreshError):
    """The token store could not complete an operation. Nothing was overwritten."""


class WrongKey(StoreError):
    """The stored tokens were encrypted with another key.

    ``stored_key_id`` identifies the key that the state was written with, ``key_ids``
    the keys that were tried. Both are short identifiers, not the keys themselves.
    """

    def __init__(
        self,
        message: str = "",
        *,
        stored_key_id: str | None = None,
        key_ids: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.stored_key_id = stored_key_id
        self.key_ids = key_ids


class StoreCorrupted(StoreError):
    """The stored data is not a complete and authentic state of this session."""


class WrongIdentity(StoreError):
    """The store holds a session of another server or client; its tokens are not used here.

    ``stored_identity`` names the token endpoint and the client of the stored session,
    ``identity`` those that this program is set up for.
    """

    def __init__(
        self,
        message: str = "",
        *,
        stored_identity: str | None = None,
        identity: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.stored_identity = stored_identity
        self.identity = identity


class StoreUnavailable(StoreError):
    """The store cannot be used at the moment.

    Another process has held its lock for longer than ``wait_timeout`` (``holder`` names
    it; ``None`` if unknown), its disk is full or read-only, or its engine is down.
    """

    def __init__(self, message: str = "", *, holder: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.holder = holder
