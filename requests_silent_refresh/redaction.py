"""Types that hold secrets, and functions that keep secrets out of logs.

``Secret`` holds a string that cannot be printed, formatted, compared or pickled by
accident. ``HeaderValue`` must be a real ``str`` for the transport, so it masks only its
repr; ``MaskedDict`` does the same for a dictionary. ``strip`` makes an exception safe to
keep as a cause. ``fingerprint`` lets people tell two tokens apart in a log. ``install``
adds a filter to the application's own logging.
"""

from __future__ import annotations

import base64
import builtins
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, quote_plus

MASK = "***"

_Error = TypeVar("_Error", bound=BaseException)
_Self = TypeVar("_Self", bound="Confidential")

# A key per process, so that a fingerprint tells two tokens apart in one log, but cannot be
# used to find the token, or the same token in another process's log.
_fingerprint_key = secrets.token_bytes(32)


def fingerprint(text: str) -> str:
    """Return 8 hex digits that identify ``text`` within this process."""
    data = text.encode(errors="backslashreplace")  # an encoding error would show the text
    return hmac.new(_fingerprint_key, data, hashlib.sha256).hexdigest()[:8]


class Confidential:
    """Base of immutable values that hold secrets: a copy is the object itself, pickling raises."""

    __slots__ = ()

    def __copy__(self: _Self) -> _Self:
        return self

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: keep tokens in a store and pickle the "
            "manager, which reopens it"
        )


class Secret(Confidential):
    """A string that only :meth:`reveal` returns. Immutable and thread-safe.

    >>> secret = Secret("s3cret")
    >>> print(f"the password is {secret}")
    the password is ***
    >>> secret.reveal()
    's3cret'

    Two secrets are equal only if they are the same object. To compare their values, pass
    what they reveal to :func:`hmac.compare_digest`.
    """

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a secret must be a str, not {type(value).__name__}")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """Return the secret as plain text. The caller must keep it out of logs and errors."""
        return self.__value

    @property
    def fingerprint(self) -> str:
        """8 hex digits that tell this secret from others in a log of this process."""
        return fingerprint(self.__value)

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")


class HeaderValue(Confidential, str):
    """A header's value for the transport: a real ``str`` whose repr is masked.

    ``str()`` and formatting return the value, because transports other than urllib3 write
    headers with them. Pickling stores the mask, because a transport may keep and pickle
    the request.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)

    def __reduce_ex__(self, protocol: object) -> tuple[type[HeaderValue], tuple[str]]:
        return HeaderValue, (MASK,)


class MaskedDict(dict[str, Any]):
    """A dictionary whose repr shows only its keys, for local variables in frames that may raise."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: {MASK}" for key in self) + "}"


_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # since Python 3.11

# Attributes in which other packages' exceptions keep the whole output of a server or command.
_PAYLOADS = frozenset({"__notes__", "doc", "output", "stdout", "stderr", "body", "text", "content"})


def strip(error: BaseException, hide: Iterable[Secret | None] = ()) -> BaseException:
    """Make ``error`` safe to keep as a cause, in place, and return it.

    Along the whole chain of causes, removes the frames (their locals hold tokens) and
    every object that the exception holds (its request's body is the refresh token; its
    response and urllib3's pool hold tokens and a connection), and masks credentials in
    the text that is left. Types and messages are kept. Never raises.

    ``hide`` lists secrets that were in use, because servers quote the refresh token in
    ``error_description``, and programs quote it in their exceptions.
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
    """Strip ``error`` and its cause, so that it can be kept and raised again; return it.

    ``cause`` defaults to the error's own. ``hide`` is as for :func:`strip`.
    """
    cause = cause or error.__cause__
    hide = tuple(hide)
    strip(error, hide)
    error.__context__ = None
    error.__cause__ = None if cause is None else strip(cause, hide)
    return error


def _cleaner(hide: Iterable[Secret | None]) -> Callable[[str], str]:
    """Return a function that masks these secrets in text, and anything like a credential."""
    # A short one is a test's placeholder, which may occur in any text.
    values = {s.reveal() for s in hide if s is not None and len(s.reveal()) >= 8}
    known = sorted({f for v in values for f in _forms_of(v)}, key=len, reverse=True)

    def clean(text: str) -> str:
        for value in known:
            text = text.replace(value, MASK)
        return redact(text)

    return clean


def _forms_of(value: str) -> set[str]:
    """Return ``value`` and its usual encodings, in which servers quote what they were sent."""
    data = value.encode(errors="backslashreplace")
    forms = {value}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        forms |= {text, text.rstrip("=")}
    forms |= {quote(form, safe="", errors="backslashreplace") for form in forms} | {
        quote_plus(value, errors="backslashreplace")
    }
    return forms | {re.sub("%..", lambda code: code[0].lower(), form) for form in forms}


def _strip_attributes(link: BaseException, clean: Callable[[str], str]) -> None:
    # Uses the dictionary and the base class, because some properties of urllib3 warn when
    # read, and because an exception may be a frozen dataclass.
    arguments = BaseException.args.__get__(link)  # type: ignore[attr-defined]
    plain = all(isinstance(a, (str, int, float, type(None))) for a in arguments)
    if not plain or isinstance(link, UnicodeError):  # one of its arguments is the whole text
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
        return b""  # still bytes, because `str()` of http.client's errors needs that
    if type(value) in (tuple, list):
        return type(value)(_stripped(item, clean) for item in value)
    return value if isinstance(value, (int, float, BaseException)) else None


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (another package's method may raise anything)
        return type(error).__name__


_FIELD_NAMES = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion|assertion"
    r"|password|passphrase|device_?code|code_?verifier|token"
)
_QUOTE = r"\\?[\"']"  # plain, or escaped inside another string
_PATTERNS = (
    # The Authorization header: as text, as a pair, in a dict's repr, as bytes.
    re.compile(
        rf"(?i)(authorization(?:{_QUOTE})?\s*[:=,]\s*b?(?:{_QUOTE})?(?:[a-z0-9-]+ +)?)"
        r"([a-z0-9._~+/=*-]+)"  # also matches the mask, or a second pass would mask the scheme
    ),
    # Credentials without a header name. This also masks "bearer authentication".
    re.compile(r"(?i)\b((?:bearer|dpop)\s+)([a-z0-9._~+/=-]{8,})"),
    # JSON and dict reprs. A "\\/" is part of the value.
    re.compile(
        rf"(?i)({_QUOTE}(?:{_FIELD_NAMES}|code){_QUOTE}\s*:\s*b?{_QUOTE})((?:[^\"'\\]|\\[^\"'])+)"
    ),
    # Forms and query strings. Short codes are kept: they are exit codes or similar.
    re.compile(rf"(?i)(\b(?:{_FIELD_NAMES})=)([^&\s\"'\\]+)"),
    re.compile(r"(?i)(\bcode=)([^&\s\"'\\]{8,})"),
    # A JSON Web Token anywhere in the text: its header and its claims begin with '{"'.
    re.compile(r"()(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)


def redact(text: str) -> str:
    """Return ``text`` with everything that looks like a credential masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


class RedactingFilter(logging.Filter):
    """Masks credentials in the formatted message and traceback of each record."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place. Always returns True, so no record is dropped."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 (logging itself reports a broken log call)
            return True
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        for name, value in list(vars(record).items()):  # also stack_info and `extra=` fields
            if isinstance(value, str):
                setattr(record, name, redact(value))
                if name == "exc_text" and record.exc_text != value:
                    record.exc_info = None  # otherwise a custom formatter might show it
        return True


def install(logger: logging.Logger | None = None) -> RedactingFilter:
    """Mask credentials in the application's own logging, as a second line of defence.

    This package itself logs no tokens; the filter is for code that logs requests or
    bodies. It is added to each current handler of ``logger`` (of the root logger if
    ``None``), because a logger's own filters do not see its children's records. Call this
    after configuring logging, and again after adding handlers; a handler gets the filter
    only once. Returns the filter.
    """
    logger = logger or logging.getLogger()
    handlers = logger.handlers or [h for h in (logging.lastResort,) if h]
    for handler in handlers:
        if not any(isinstance(known, RedactingFilter) for known in handler.filters):
            handler.addFilter(_filter)
    return _filter


_filter = RedactingFilter()
