"""Secrets as a type, and what keeps them out of logs.

``Secret`` holds a string that cannot be printed, formatted, compared or pickled
by accident. ``HeaderValue`` is what has to be a real ``str`` for the transport
and therefore only masks its repr; ``MaskedDict`` is the same for a dictionary.
``strip`` makes an exception safe to hand on as a cause. ``fingerprint`` lets a
person tell two tokens apart in a log. ``install`` adds a filter to the
application's own logging.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote_plus

MASK = "***"

_Error = TypeVar("_Error", bound=BaseException)

# One key per process: a fingerprint tells two tokens apart within a log and is
# worthless for finding the token, or the same token in another process.
_fingerprint_key = secrets.token_bytes(32)


def fingerprint(text: str) -> str:
    """Return 8 hex digits that stand for ``text`` within this process."""
    data = text.encode(errors="backslashreplace")  # an encoding error would show the text
    return hmac.new(_fingerprint_key, data, hashlib.sha256).hexdigest()[:8]


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
    other than urllib3 write headers. A pickle gets the mask: a transport may
    keep the request it was given.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)

    def __copy__(self) -> HeaderValue:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HeaderValue:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[type[HeaderValue], tuple[str]]:
        return HeaderValue, (MASK,)


class MaskedDict(dict[str, Any]):
    """A dictionary whose repr shows its keys only, for the locals of a frame that may raise."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: {MASK}" for key in self) + "}"


_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # since Python 3.11

# Text in which exceptions of others keep what a server or a command said, whole.
_PAYLOADS = frozenset({"__notes__", "doc", "output", "stdout", "stderr", "body", "text", "content"})


def strip(error: BaseException, hide: Iterable[Secret | None] = ()) -> BaseException:
    """Make ``error`` safe to be kept as a cause, in place, and return it.

    Cuts the frames (their locals hold tokens) and every object the exception
    holds (its request's body is the refresh token; its response holds tokens and
    a connection; so does urllib3's pool), and masks what is left of text, along
    the whole chain. What it was and what it said stay. Never raises.

    ``hide`` are secrets that were in play: servers quote a refresh token in
    their ``error_description``, and programs quote one in their exceptions.
    """
    clean = _cleaner(hide)
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.with_traceback(None)
        todo += [link.__cause__, link.__context__]
        if isinstance(link, _GROUP):
            todo += link.exceptions
        todo += [v for v in vars(link).values() if isinstance(v, BaseException)]
        _strip_attributes(link, clean)
    return error


def masked(text: str, hide: Iterable[Secret | None] = ()) -> str:
    """Return ``text`` with the secrets ``hide`` and all that looks like a credential masked."""
    return _cleaner(hide)(text)


def share(
    error: _Error, cause: BaseException | None = None, hide: Iterable[Secret | None] = ()
) -> _Error:
    """Return ``error``, made fit to be kept and raised anew: no frames, a stripped cause.

    ``cause`` is the error's own by default; ``hide`` as for :func:`strip`.
    """
    cause = cause or error.__cause__
    hide = tuple(hide)
    strip(error, hide)
    error.__context__ = None
    error.__cause__ = None if cause is None else strip(cause, hide)
    return error


def _cleaner(hide: Iterable[Secret | None]) -> Callable[[str], str]:
    """Return what masks text: all that looks like a credential, and these secrets."""
    values = {secret.reveal() for secret in hide if secret is not None}
    values |= {quote_plus(value) for value in values}
    # A short one is a placeholder of somebody's tests, and stands in any text.
    known = sorted((v for v in values if len(v) >= 8), key=len, reverse=True)

    def clean(text: str) -> str:
        for value in known:
            text = text.replace(value, MASK)
        return redact(text)

    return clean


def _strip_attributes(link: BaseException, clean: Callable[[str], str]) -> None:
    # Through the dictionary and the base class: properties of urllib3 warn when they
    # are read, and an exception may be a frozen dataclass.
    arguments = BaseException.args.__get__(link)  # type: ignore[attr-defined]
    plain = all(isinstance(a, (str, int, float, type(None))) for a in arguments)
    if not plain or isinstance(link, UnicodeError):  # which has the whole text for an argument
        arguments = (_said(link),)
    arguments = tuple(clean(a) if isinstance(a, str) else a for a in arguments)
    fields = vars(link)
    for name, value in list(fields.items()):
        fields[name] = "" if name in _PAYLOADS else _stripped(value, clean)
    BaseException.args.__set__(link, arguments)  # type: ignore[attr-defined]
    if isinstance(link, UnicodeDecodeError):
        link.object = b""
    elif isinstance(link, (UnicodeEncodeError, UnicodeTranslateError)):
        link.object = ""


def _stripped(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bytes):
        return b""  # the type stays, `str()` of http.client's errors needs it
    if type(value) in (tuple, list):
        return type(value)(_stripped(item, clean) for item in value)
    return value if isinstance(value, (int, float, BaseException)) else None


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (whatever the method of another's class does)
        return type(error).__name__


_FIELD_NAMES = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion|assertion"
    r"|password|passphrase|device_?code|code_?verifier|token"
)
_QUOTE = r"\\?[\"']"  # as it is, or escaped inside another string
_PATTERNS = (
    # The header: as text, as a pair, in a dict's repr, as bytes.
    re.compile(
        rf"(?i)(authorization(?:{_QUOTE})?\s*[:=,]\s*b?(?:{_QUOTE})?(?:[a-z0-9-]+ +)?)"
        r"([a-z0-9._~+/=*-]+)"  # the mask is matched too, lest the scheme be masked after it
    ),
    # The credentials alone; "bearer authentication" is lost with them.
    re.compile(r"(?i)\b((?:bearer|dpop)\s+)([a-z0-9._~+/=-]{8,})"),
    # JSON and dict reprs; a "\\/" belongs to the value.
    re.compile(
        rf"(?i)({_QUOTE}(?:{_FIELD_NAMES}|code){_QUOTE}\s*:\s*b?{_QUOTE})((?:[^\"'\\]|\\[^\"'])+)"
    ),
    # Forms and query strings. Short codes are exit codes and the like.
    re.compile(rf"(?i)(\b(?:{_FIELD_NAMES})=)([^&\s\"'\\]+)"),
    re.compile(r"(?i)(\bcode=)([^&\s\"'\\]{8,})"),
    # A JSON Web Token wherever it stands: its header and its claims begin with '{"'.
    re.compile(r"()(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
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
        except Exception:  # noqa: BLE001 (a broken log call: logging itself reports it)
            return True
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        for name, value in list(vars(record).items()):  # exc_text, stack_info, what `extra=` gave
            if isinstance(value, str):
                setattr(record, name, redact(value))
                if name == "exc_text" and record.exc_text != value:
                    record.exc_info = None  # or a formatter of its own mind would show it
        return True


def install(logger: logging.Logger | None = None) -> RedactingFilter:
    """Mask credentials in the application's own logging, as a second line.

    This package logs no token by itself; this is for code around it that logs
    requests or bodies. The filter is added to every handler that ``logger``
    (the root logger if ``None``) has now, because a logger's own filters do not
    see records of its children. Call it after logging is configured, and again
    when handlers were added; a handler that has the filter gets no second one.
    Returns the filter.
    """
    logger = logger or logging.getLogger()
    handlers = logger.handlers or [h for h in (logging.lastResort,) if h]
    for handler in handlers:
        if not any(isinstance(known, RedactingFilter) for known in handler.filters):
            handler.addFilter(_filter)
    return _filter


_filter = RedactingFilter()
