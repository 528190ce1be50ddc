"""Everything this package raises.

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
               +-- StoreCorrupted
               +-- StoreUnavailable

An ``except requests.RequestException`` around old code therefore goes on
working. What a program branches on is an attribute; the message is for a
person and says what to do next. No error holds a token, the token endpoint's
response, or a cause that does. A wrong argument is a plain ``ValueError`` or
``TypeError`` at construction, as everywhere in Python.

Every waiting thread raises an exception object of its own, because raising one
object in many threads mixes their tracebacks; ``__cause__`` is shared.
"""

from __future__ import annotations

from typing import Any, TypeVar

from requests.exceptions import HTTPError, RequestException, Timeout

_DESCRIPTION_LIMIT = 200

_Error = TypeVar("_Error", bound="SilentRefreshError")


def _clean(text: object) -> str | None:
    """Make a server's free text safe for one line of a terminal or a log: printable, bounded."""
    if not isinstance(text, str) or not text:
        return None
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * _DESCRIPTION_LIMIT])
    return " ".join(printable.split())[:_DESCRIPTION_LIMIT] or None


class SilentRefreshError(RequestException):
    """Base of every error of this package.

    ``error`` and ``error_description``
        The token endpoint's words (RFC 6749 section 5.2), cleaned of control
        characters and cut to 200 characters; ``None`` where it gave none.
    ``status_code``
        The HTTP status of the token endpoint's answer; ``None`` without one.
    ``retry_after``
        Seconds until a refresh is tried again: this package's backoff, or the
        server's wish where that is longer; ``None`` where time does not mend it.
    ``response``
        The resource server's 401, where there was one. Never the token
        endpoint's response: that one holds secrets and a connection.
    ``request``
        The caller's request that failed, without the token, so that a program
        can resume where it was; ``None`` where no request was under way.

    A pickle takes the words along and leaves ``request`` and ``response``
    behind: cookies, open files and a connection do not belong in one.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str | None = None,
        error_description: str | None = None,
        status_code: int | None = None,
        retry_after: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.error = _clean(error)
        self.error_description = _clean(error_description)
        self.status_code = status_code
        self.retry_after = retry_after

    def again(self: _Error) -> _Error:
        """Return an exception of one's own to raise, with this one's words and cause.

        One failed refresh fails many threads, and raising one object in many
        threads mixes their tracebacks.
        """
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
    """The session cannot be refreshed: somebody has to sign in again.

    Raised when the server refused the refresh token (``error`` is then
    ``"invalid_grant"`` or the server's equivalent), when the store holds no
    session, and for every request from then on until ``manager.sign_in``, here
    or in another process sharing the store. Only the server's verdict or a
    sign-out leads here, never network trouble.
    """


class RefreshFailed(SilentRefreshError):
    """The token endpoint answered something that no retry will mend.

    A wrong set-up: ``invalid_client``, ``unauthorized_client``, a 404, a
    redirect, or a ``refresh`` callable that raised. The session is kept; mend
    the configuration.
    """


class RefreshUnavailable(SilentRefreshError):
    """The token endpoint could not be reached or answered that it is busy.

    Transient: the session is kept, and requests after ``retry_after`` seconds
    (the server's wish or this package's own backoff) try again.
    """


class RefreshTimeout(SilentRefreshError, Timeout):
    """A refresh took longer than ``wait_timeout`` (10 s unless told otherwise).

    The exchange goes on in the background and a late result is saved and used,
    so the next request may well succeed.
    """


class InsecureTransport(SilentRefreshError):
    """A token would have left over a connection that others can read.

    Tokens travel over https, or over loopback where no proxy applies to the
    request (RFC 6750 section 5.3).
    """


class StoreError(SilentRefreshError):
    """The token store cannot do what was asked. Nothing was overwritten."""


class WrongKey(StoreError):
    """The stored tokens were encrypted with another key.

    ``stored_key_id`` and ``key_ids`` are short identifiers (not the keys) of
    the key the state was written with and of those that were tried.
    """

    def __init__(
        self,
        message: str,
        *,
        stored_key_id: str | None = None,
        key_ids: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.stored_key_id = stored_key_id
        self.key_ids = key_ids


class StoreCorrupted(StoreError):
    """What is stored is not a whole, authentic state of this session."""


class StoreUnavailable(StoreError):
    """The store cannot be used now.

    It is locked by somebody else for longer than a waiter waits (``holder``
    says by whom, ``None`` where unknown), its disk is full or read-only, or its
    engine is down.
    """

    def __init__(self, message: str, *, holder: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.holder = holder
