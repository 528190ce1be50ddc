"""Secrets as a type, and what keeps them out of logs.

``Secret`` holds a string that cannot be printed, formatted, compared or pickled
by accident. ``HeaderValue`` is what has to be a real ``str`` for the transport
and therefore only masks its repr. ``strip`` makes an exception safe to hand on
as a cause. ``fingerprint`` lets a person tell two tokens apart in a log.
``install`` adds a filter to the application's own logging.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from typing import Any, NoReturn

MASK = "***"

# One key per process: a fingerprint tells two tokens apart within a log and is
# worthless for finding the token, or the same token in another process.
_fingerprint_key = secrets.token_bytes(32)


def fingerprint(text: str) -> str:
    """Return 8 hex digits that stand for ``text`` within this process."""
    return hmac.new(_fingerprint_key, text.encode(), hashlib.sha256).hexdigest()[:8]


class Secret:
    """A string that only :meth:`reveal` gives out. Immutable and thread-safe.

    Two secrets are equal only if they are the same object; compare revealed
    values with :func:`hmac.compare_digest` where it must be.
    """

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a secret is a str, not {type(value).__name__}")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """Return the secret itself. Whoever calls this answers for where it goes."""
        return self.__value

    @property
    def fingerprint(self) -> str:
        """8 hex digits to tell this secret from another in a log of this process."""
        return fingerprint(self.__value)

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a Secret is not pickled: keep tokens in a store and pickle the manager, "
            "which reopens it"
        )


class HeaderValue(str):
    """A header's value for the transport: a real ``str`` whose repr is masked.

    ``str()`` and formatting must give the value, because that is how transports
    other than urllib3 write headers.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


def strip(error: BaseException) -> BaseException:
    """Make ``error`` safe to be kept as a cause, in place, and return it.

    Cuts the frames (their locals hold tokens), the request (its body is the
    refresh token), the response (it holds tokens, and a connection), and the
    objects urllib3 puts among the arguments, along the whole chain.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.__traceback__ = None
        todo += [link.__cause__, link.__context__]
        for attribute in ("request", "response", "pool", "conn"):
            if getattr(link, attribute, None) is not None:
                try:
                    setattr(link, attribute, None)
                except (AttributeError, TypeError):
                    link.__dict__.pop(attribute, None)
        if not all(isinstance(a, (str, int, float, type(None))) for a in link.args):
            link.args = (str(link),)
    return error


_FIELD_NAMES = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion|assertion"
    r"|password|passphrase|device_?code|code_?verifier|token|code"
)
_PATTERNS = (
    # A header, as text, as a pair of a dict's repr, or as bytes.
    re.compile(r"(?i)\b((?:bearer|basic|dpop|token)\s+)([A-Za-z0-9._~+/=-]{8,})"),
    # JSON and dict reprs.
    re.compile(
        rf"(?i)((?:\\?[\"'])(?:{_FIELD_NAMES})(?:\\?[\"'])\s*:\s*b?(?:\\?[\"']))([^\"'\\]+)"
    ),
    # Forms and query strings.
    re.compile(rf"(?i)(\b(?:{_FIELD_NAMES})=)([^&\s\"']+)"),
)


def redact(text: str) -> str:
    """Return ``text`` with everything that looks like a credential masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


class RedactingFilter(logging.Filter):
    """Masks credentials in the finished message and traceback of each record."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; never drops one."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return True  # a broken log call: logging itself reports it
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def install(logger: logging.Logger | None = None) -> RedactingFilter:
    """Mask credentials in the application's own logging, as a second line.

    This package logs no token by itself; this is for code around it that logs
    requests or bodies. The filter is added to every handler that ``logger``
    (the root logger if ``None``) has now, because a logger's own filters do not
    see records of its children. Call it after logging is configured. Returns
    the filter. Calling it twice adds nothing.
    """
    logger = logger or logging.getLogger()
    handlers = logger.handlers
    for handler in handlers:
        for existing in handler.filters:
            if isinstance(existing, RedactingFilter):
                return existing
    redacting = RedactingFilter()
    for handler in handlers:
        handler.addFilter(redacting)
    return redacting
