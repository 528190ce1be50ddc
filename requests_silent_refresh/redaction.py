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
import contextlib
import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, quote_plus

from .patterns import MASK, redact, redact_data

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


def hidden_mapping(value: Any) -> Any:
    """Return a mapping as a :class:`MaskedDict`; anything else, a wrong argument, as it is."""
    return MaskedDict(value) if isinstance(value, Mapping) else value


_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # since Python 3.11

_OURS = __name__.partition(".")[0]
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def is_ours(kind: type) -> bool:
    """Say whether a class is one of this package."""
    return kind.__module__.partition(".")[0] == _OURS


def strip(error: BaseException, hide: Iterable[Secret | None] = ()) -> BaseException:
    """Make ``error`` safe to keep as a cause, in place, and return it.

    Along the whole chain of causes, removes the frames, whose locals hold tokens. An
    exception of this package keeps its text and its plain attributes, with the secrets
    ``hide`` and all that looks like a credential masked. Any other exception keeps only its
    type, because its text, notes and attributes may quote what it was called with. One of
    the operating system also keeps its number, and that number's text. A group that is
    not of this package is replaced, because its text cannot be changed. Never raises.
    """
    clean = _cleaner(hide)
    seen: set[int] = set()
    kept = _without_text(error)
    todo: list[BaseException | None] = [error, kept]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.with_traceback(None)
        for name in ("__cause__", "__context__"):
            child = getattr(link, name)
            if isinstance(child, _GROUP):
                todo.append(child)  # somebody else may hold the original
                child = _without_text(child)
                getattr(BaseException, name).__set__(link, child)
            todo.append(child)
        if isinstance(link, _GROUP):
            todo += link.exceptions
        if any(map(is_ours, type(link).__mro__)):
            todo += [v for v in vars(link).values() if isinstance(v, BaseException)]
            _mask(link, clean)
        else:
            _empty(link)
    return kept


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
    error.__context__ = None
    strip(error, hide)
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


def _mask(link: BaseException, clean: Callable[[str], str]) -> None:
    arguments = [a if isinstance(a, str) or _is_plain(a) else type(a).__name__ for a in link.args]
    _set_arguments(link, tuple(_masked_value(arguments, clean)))
    vars(link).update({k: _masked_value(v, clean) for k, v in vars(link).items()})


def _masked_value(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if type(value) in (tuple, list):
        return type(value)(_masked_value(item, clean) for item in value)
    return value if _is_plain(value) or isinstance(value, BaseException) else None


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (int, float))


def _empty(link: BaseException) -> None:
    # By the dictionary and the descriptors of its classes, because some properties of
    # urllib3 warn when they are read, and because an exception may be a frozen dataclass.
    of_python = type(link).__module__ == "builtins"
    number = link.errno if of_python and isinstance(link, OSError) else None
    fields = vars(link)
    for name, value in list(fields.items()):
        fields[name] = _empty_value(value)
    for kind in type(link).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, _SLOTS) and not name.startswith("__"):
                with contextlib.suppress(Exception):  # it is unset or read-only
                    if kind.__module__ == "builtins":
                        slot.__delete__(link)
                    else:
                        slot.__set__(link, _empty_value(slot.__get__(link)))
    _set_arguments(link, ())
    if isinstance(link, OSError) and number is not None and number in errno.errorcode:
        link.errno, link.strerror = number, os.strerror(number)
        _set_arguments(link, (number, link.strerror))


def _set_arguments(link: BaseException, arguments: tuple[Any, ...]) -> None:
    BaseException.args.__set__(link, arguments)  # type: ignore[attr-defined]


def _empty_value(value: Any) -> Any:
    """Return an empty value of the same type, which the exception's ``__str__`` may need."""
    return type(value)() if type(value) in (str, bytes, int, float, list, tuple, dict) else None


def _without_text(error: BaseException) -> BaseException:
    """Return ``error``, or its twin without text if it is a foreign group."""
    if not isinstance(error, _GROUP) or any(map(is_ours, type(error).__mro__)):
        return error
    members = [_without_text(member) for member in error.exceptions]
    twin: BaseException = _GROUP.__new__(type(error), "", members)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin


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
            if name != "args":  # the message shows them
                vars(record)[name] = redact_data(value)
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
