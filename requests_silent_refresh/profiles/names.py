"""Names of profiles, and the file names that stand for them whatever people type."""

from __future__ import annotations

import re
import string
import unicodedata

_PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_")
_ESCAPE = re.compile(r"=([0-9a-f]{2})")

# Windows takes these for devices, with any ending.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z")

# Bytes: the longest name of a file beside it is 255 with everything that is put behind.
_LONGEST = 180


def normal(name: str) -> str:
    """Return ``name`` in Unicode's composed form, in which two that look alike mostly are alike.

    Raises ``ValueError`` for a name that is empty, too long, or holds what
    cannot be printed (which a terminal might obey).
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a profile has a name, such as 'work'")
    name = unicodedata.normalize("NFC", name.strip())
    if not name.isprintable():
        raise ValueError(f"a profile's name has no control characters: {name!r}")
    if len(_encoded(name)) > _LONGEST:
        raise ValueError(f"a profile's name is shorter than this: {name[:40]}...")
    return name


def to_file_name(name: str) -> str:
    """Return the file name for a profile; ``from_file_name`` undoes it.

    Lower-case letters, digits, ``-`` and ``_`` stand for themselves; every other
    byte of the UTF-8 is written ``=xx``, capitals too. So no two names meet on a
    file system that does not tell capitals from small letters, none holds a
    dot or a slash, and none is a device of Windows. Raises ``ValueError`` as
    :func:`normal`.
    """
    return _encoded(normal(name))


def from_file_name(text: str) -> str | None:
    """Return the profile's name; ``None`` where ``text`` is no file name of a profile."""
    try:
        raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1")
        name = raw.decode()
        return name if to_file_name(name) == text else None
    except ValueError:
        return None


def _encoded(name: str) -> str:
    text = "".join(character if character in _PLAIN else _escaped(character) for character in name)
    return _escaped(text[0]) + text[1:] if _DEVICES.match(text) else text


def _escaped(character: str) -> str:
    return "".join(f"={byte:02x}" for byte in character.encode())
