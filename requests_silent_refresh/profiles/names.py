"""Names of profiles, and the file names made from them."""

from __future__ import annotations

import re
import string
import unicodedata

_PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_")
_ESCAPE = re.compile(r"=([0-9a-f]{2})")

# Windows treats these as devices, whatever the extension.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z")

# Bytes; leaves room for suffixes within the usual 255 bytes of a file name.
_LONGEST = 180


def normal(name: str) -> str:
    """Return ``name`` stripped and in Unicode's composed form (NFC), so that spellings agree.

    Raises ``ValueError`` if the name is empty, too long, or contains unprintable
    characters, which a terminal might interpret.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a profile needs a name, for example 'work'")
    name = unicodedata.normalize("NFC", name.strip())
    if not name.isprintable():
        raise ValueError(f"a profile's name must not contain unprintable characters: {name!r}")
    if len(_encoded(name)) > _LONGEST:
        raise ValueError(f"a profile's name must be shorter than this: {name[:40]}...")
    return name


def to_file_name(name: str) -> str:
    """Return the file name for a profile; :func:`from_file_name` reverses it.

    Lower-case letters, digits, ``-`` and ``_`` are kept; every other byte of the
    UTF-8 encoding is written as ``=xx``, including capitals. So two names never
    collide, even on a case-insensitive file system, and a file name contains no
    dot or slash and is not a Windows device. Raises ``ValueError`` like
    :func:`normal`.
    """
    return _encoded(normal(name))


def from_file_name(text: str) -> str | None:
    """Return the profile's name; ``None`` if ``text`` is not the file name of a profile."""
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
