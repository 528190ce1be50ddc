"""Times and lifetimes as servers and other programs write them.

No function here raises for any value: a time that cannot be read is ``None``.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Literal

# Lifetimes are below these numbers, points in time above: in "s" 31 years and the year 2001, in
# "ms" 3 years and 1973.
_LONGEST_LIFETIME = {"s": 1e9, "ms": 1e11}

# A number of seconds above this limit is a smaller unit: seconds until the year 5138, or
# milliseconds since 1973, microseconds since 1973, nanoseconds since 1973.
_SECONDS_END = 1e11

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
# "3600s", "15 min", "1 hour", "7d": as durations are written by protobuf, Go and jsonwebtoken.
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])(?:ec|in|r)?s?|(\d+) (min|hour|day)\w*")
# "01:00:00", "1.00:00:00", "1 00:00:00": .NET's TimeSpan and Django's durations.
_CLOCK = re.compile(r"(?:(\d+)[. ])?(\d+):([0-5]\d):([0-5]\d)(?:\.\d+)?")
_ISO_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
# "/Date(1800000000000+0000)/": Microsoft's JSON.
_DATE_CALL = re.compile(r"\\?/Date\((-?\d+)(?:[+-]\d{4})?\)\\?/")
# ISO 8601 as Python 3.10 does not read it: a compact date, "Z", other fractions than 3 or 6
# digits, and a zone such as "+0000", "+02", " +0000 UTC" (Go) or "UTC".
_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?"
    r"\s*(?:Z|UTC|GMT|([+-]\d\d):?(\d\d)?(?: [A-Z]{3,4})?)?(?: m=.*)?",
    re.IGNORECASE | re.ASCII,
)


def number(value: object) -> float | None:
    """Read a number as servers send it: 3600, 3600.0 or "3600"; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < 1e20 else None


def parse_time(value: object, *, local: bool = False) -> float | None:
    """Read a point in time: Unix time in any unit, ISO 8601, an HTTP date, or a ``datetime``.

    Returns Unix time in seconds, or ``None`` if ``value`` is not a time. A date without an
    offset is read as UTC, or, if ``local``, in this machine's time zone.
    """
    found = number(value)
    if found is not None:
        while abs(found) > _SECONDS_END:
            found /= 1000
        return found
    if isinstance(value, Mapping):
        return _of_a_database(value)
    if isinstance(value, str):
        text = value.strip()[:100]
        if call := _DATE_CALL.fullmatch(text):
            return int(call[1]) / 1000
        value = _iso(text) or _http(text)
    return _unix_time(value, local) if isinstance(value, datetime) else None


def _unix_time(moment: datetime, local: bool) -> float | None:
    try:
        if moment.tzinfo is None and local:
            return time.mktime(moment.timetuple())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def parse_expiry(
    value: object, unit: Literal["s", "ms"] = "s", *, local: bool = False
) -> tuple[Literal["in", "at"], float] | None:
    """Read an expiry: ``("in", seconds)`` for a lifetime, ``("at", Unix time)`` for a moment.

    A small number is a lifetime in ``unit``, a large one Unix time; they are told apart by
    their size, whatever the field is called. ``local`` is as for :func:`parse_time`.
    """
    found = number(value)
    if found is not None and found < _LONGEST_LIFETIME[unit]:
        return "in", found / 1000 if unit == "ms" else found
    if found is None and isinstance(value, str):
        duration = _duration(value.strip().lower()[:100])
        if duration is not None:
            return "in", duration
    moment = parse_time(value, local=local)
    return None if moment is None else ("at", moment)


def _duration(text: str) -> float | None:
    if match := _DURATION.fullmatch(text):
        return float(match[1] or match[3]) * _UNITS[match[2] or match[4][0]]
    match = _CLOCK.fullmatch(text) or _ISO_DURATION.fullmatch(text.upper())
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    micro = int((match[7] or "0")[:6].ljust(6, "0"))
    zone = ""
    if match[8]:
        zone = f"{match[8]}:{match[9] or '00'}"
    elif re.search(r"[a-z]", text[10:].replace("T", "", 1), re.IGNORECASE):
        zone = "+00:00"
    try:
        moment = datetime(year, month, day, hour, minute, second, micro)
        return datetime.fromisoformat(moment.isoformat() + zone)
    except ValueError:
        return None


def _http(text: str) -> datetime | None:
    # Without a letter it is no HTTP date, but parsedate would guess.
    if not re.match(r"[A-Za-z]{3,9},? ", text):
        return None
    try:
        return email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _of_a_database(value: Mapping[Any, Any]) -> float | None:
    """Read a time as databases export it: Firestore's and MongoDB's JSON."""
    for name in ("_seconds", "seconds", "$date", "$numberLong"):
        found: object = value.get(name)
        if isinstance(found, Mapping):
            found = found.get("$numberLong")
        moment = None if isinstance(found, Mapping) else parse_time(found)
        if moment is not None and moment >= _LONGEST_LIFETIME["s"]:
            return moment
    return None
