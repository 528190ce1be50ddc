"""Checks of the arguments of constructors, so that a mistake is reported where it was made.

The checks take arguments by their names. They raise ``TypeError`` for a wrong kind and
``ValueError`` for a wrong value. A message names the argument, and only the type of what was
given, because the value may be a secret. For optional arguments, write
``check(**given(name=value))``.
"""

from __future__ import annotations

import inspect
import json
import numbers
import os
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .redaction import MaskedDict, Secret

# RFC 9110 section 5.6.2: the names of header fields and of authentication schemes.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What requests and http.client accept: Latin-1 without control characters or a leading blank.
_HEADER_VALUE = re.compile(r"(?:(?!\s)[!-~\x80-\xff][\t -~\x80-\xff]*)?")

_NEVER_RETURNS_A_VALUE = (
    (inspect.iscoroutinefunction, "a coroutine function"),
    (inspect.isasyncgenfunction, "an asynchronous generator function"),
    (inspect.isgeneratorfunction, "a generator function"),
)


def given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are not ``None``."""
    return {name: value for name, value in arguments.items() if value is not None}


def wrong_kind(name: str, value: object, expected: str) -> TypeError:
    """Return the error for an argument of a wrong kind, to be raised by the caller."""
    return TypeError(f"{name} must be {expected}, not {kind_of(value)}")


def kind_of(value: object) -> str:
    """Return what ``value`` is, for a message, without showing it."""
    if isinstance(value, type):
        return f"the class {value.__qualname__} itself"
    return _kind_of_function(value) or ("None" if value is None else type(value).__name__)


def instances(kind: type | tuple[type, ...], expected: str, /, **arguments: Any) -> None:
    """Check that each argument is an instance of ``kind``."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise wrong_kind(name, value, expected)


def flags(**arguments: Any) -> None:
    """Check that each argument is a ``bool``: the text ``"false"`` would count as true."""
    instances(bool, "True or False", **arguments)


def able(methods: Collection[str], expected: str, /, **arguments: Any) -> None:
    """Check that each argument is an object that has these methods.

    Not ``isinstance``, because an object that only delegates to another one is fine.
    """
    for name, value in arguments.items():
        if isinstance(value, type) or not all(callable(getattr(value, m, None)) for m in methods):
            raise wrong_kind(name, value, expected)


def functions(expected: str = "a callable", /, **arguments: Any) -> None:
    """Check that each argument is a callable that returns a value.

    Refuses a class in place of an instance, and coroutine and generator functions, whose
    calls never return the value itself.
    """
    for name, value in arguments.items():
        if isinstance(value, type) or not callable(value) or _kind_of_function(value):
            raise wrong_kind(name, value, expected)


def _kind_of_function(value: object) -> str | None:
    for is_one, kind in _NEVER_RETURNS_A_VALUE:
        if is_one(value) or is_one(getattr(type(value), "__call__", None)):  # noqa: B004 (an object's own method)
            return kind
    return None


def seconds(**arguments: Any) -> None:
    """Check that each argument is a positive number of seconds that a lock can wait for."""
    _numbers("a number of seconds", **arguments)
    for name, value in arguments.items():
        if not 0 < value <= threading.TIMEOUT_MAX:
            raise ValueError(f"{name} must be a positive, finite number of seconds")


def fraction(**arguments: Any) -> None:
    """Check that each argument is a number from 0 to below 1."""
    _numbers("a fraction", **arguments)
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be a fraction: 0 <= {name} < 1")


def _numbers(expected: str, /, **arguments: Any) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise wrong_kind(name, value, expected)


def texts(**arguments: Any) -> None:
    """Check that each argument is a ``str``, not blank, that UTF-8 can encode."""
    texts_or_empty(**arguments)
    for name, value in arguments.items():
        if not is_text(value):
            raise ValueError(f"{name} must not be empty")


def texts_or_empty(**arguments: Any) -> None:
    """Check that each argument is a ``str`` that UTF-8 can encode."""
    for name, value in arguments.items():
        instances((str, Secret), "a str", **{name: value})
        if not is_text(value, or_empty=True):
            raise ValueError(f"{name} holds a character that UTF-8 cannot encode")


def is_text(value: str | Secret, *, or_empty: bool = False) -> bool:
    """Return whether UTF-8 can encode ``value`` and it is not blank. Never raises."""
    plain = value.reveal() if isinstance(value, Secret) else value
    if any("\ud800" <= character <= "\udfff" for character in plain):
        return False
    return or_empty or bool(plain.strip())


def paths(**arguments: Any) -> None:
    """Check that each argument is the path of a field: names joined by dots."""
    texts(**arguments)
    for name, value in arguments.items():
        if not all(value.split(".")) or not value.partition(":")[0]:
            raise ValueError(f"{name} must be names joined by dots, such as 'data.token'")


def one_of(choices: Collection[Any], /, **arguments: Any) -> None:
    """Check that each argument is one of ``choices``."""
    for name, value in arguments.items():
        if value not in choices:
            wanted = " or ".join(map(repr, choices))
            raise ValueError(f"{name} must be {wanted}, not {value!r}")


def words(name: str, value: Any) -> tuple[str, ...]:
    """Return the words of a ``str``, or of an iterable of ``str``."""
    if isinstance(value, str):
        return tuple(value.split())
    expected = "a str, or an iterable of str"
    instances(Iterable, expected, **{name: value})
    found = tuple(value)
    for word in found:
        instances(str, expected, **{name: word})
    return found


def json_values(**arguments: Any) -> None:
    """Check that each argument can be written as JSON."""
    for name, value in arguments.items():
        try:
            json.dumps(value)
            problem = None
        except (TypeError, ValueError, RecursionError) as error:
            problem = str(error)
        if problem is not None:  # not in the block above: the error's frames hold the value
            raise TypeError(f"{name} cannot be written as JSON: {problem}")


def texts_or_sources(**arguments: Any) -> None:
    """Check that each argument is as for :func:`texts`, or a callable that returns a ``str``."""
    for name, value in arguments.items():
        if isinstance(value, (str, Secret)):
            texts(**{name: value})
        else:
            functions("a str, or a callable that returns one", **{name: value})


def header_tokens(**arguments: Any) -> None:
    """Check that each argument can be a header's name or an authentication scheme."""
    for name, value in arguments.items():
        instances(str, "a str", **{name: value})
        if not _TOKEN.fullmatch(value):
            raise ValueError(
                f"{name} must be letters, digits and hyphens, without blanks, colons or line breaks"
            )


def header_values(**arguments: Any) -> None:
    """Check that each argument is text that a header can carry, or a callable that returns it."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            functions("a str, or a callable that returns one", **{name: value})
        elif not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"{name} must be Latin-1 text without line breaks or a blank at its beginning"
            )


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a copy of a mapping whose keys are ``str``; an empty one for ``None``."""
    if value is None:
        return MaskedDict()
    instances(Mapping, "a mapping", **{name: value})
    for key in value:
        instances(str, "a str", **{f"each key of {name}": key})
    return MaskedDict(value)


def path(name: str, value: Any, expected: str = "the path of a file, a str or a Path") -> str:
    """Return a path as an absolute one, with ``~`` expanded. Raises for one that no file can have.

    Also raises ``ValueError`` if the home directory is not known, as that of a container's user
    id without ``HOME``: a directory named ``~`` would be made otherwise.
    """
    if isinstance(value, type) or not isinstance(value, (str, os.PathLike)):
        raise wrong_kind(name, value, expected)
    text = os.fspath(value)
    instances(str, expected, **{name: text})
    try:
        usable = 0 not in os.fsencode(text) and bool(text)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError(f"{name} must be the path of a file")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{name} starts with {expanded.partition('/')[0]}, and that home directory is not "
            "known: set HOME, or give an absolute path"
        )
    return os.path.abspath(expanded)
