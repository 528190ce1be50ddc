"""What a stored state looks like, the same in a file and in an engine.

Two lines of text::

    {"format":"requests-silent-refresh tokens","version":1,"reader":1,"key":"3f0c...", ...}
    gAAAAABo...

The first is the header, for a reader to find out what it needs: ``version`` is
the format's, ``reader`` the oldest format a reader must know to understand it,
``key`` the identifier of the key, ``kdf`` the parameters it was derived with (or
null), ``lineage`` and ``generation`` whose state it is. The second is a Fernet
token (encrypted, authenticated, no lifetime: a slow clock must not void a good
file). Its content repeats the header and names the place it was made for, so a
header cannot be changed, nor one session's state put in another's place.

Whatever is not exactly what :func:`seal` wrote is refused, to the last bit.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ..errors import StoreCorrupted, StoreError
from ..keys import Cipher, KDFParameters, Keys
from ..token import Token
from .contract import State

FORMAT = "requests-silent-refresh tokens"
VERSION = 1

# Made once: json.dumps would build one for every header that is read.
_encode = json.JSONEncoder(separators=(",", ":"), default=str, skipkeys=True).encode

_FIELDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("version", int),
    ("reader", int),
    ("key", str),
    ("kdf", (dict, type(None))),
    ("lineage", str),
    ("generation", int),
)


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A stored state, still encrypted: what an engine may see."""

    header: Mapping[str, Any]
    ciphertext: bytes

    @property
    def key_id(self) -> str:
        """The identifier of the key it was encrypted with."""
        return str(self.header["key"])

    @property
    def kdf(self) -> KDFParameters | None:
        """What the key was derived with; ``None`` for a key that was not derived."""
        kdf: KDFParameters | None = self.header["kdf"]
        return kdf

    def to_bytes(self) -> bytes:
        """Return the text to be stored."""
        return b"%s\n%s\n" % (_dump(self.header), self.ciphertext)

    @classmethod
    def from_bytes(cls, content: bytes) -> Envelope:
        """Undo :meth:`to_bytes`.

        Raises ``StoreCorrupted``, or ``StoreError`` for a format of the future.
        """
        first, _, rest = content.partition(b"\n")
        try:
            header = json.loads(first.decode())
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise StoreCorrupted("what is stored there was not written by this package, or damaged")
        reader = header.get("reader")
        if isinstance(reader, int) and reader > VERSION:
            raise StoreError(
                f"what is stored there is of format {header.get('version')} and needs a "
                f"requests-silent-refresh that reads format {reader}; this one reads up to "
                f"{VERSION}: upgrade it here"
            )
        for name, kind in _FIELDS:
            value = header.get(name, ...)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise StoreCorrupted(f"what is stored there was damaged: its {name} is none")
        envelope = cls(header, rest[:-1])
        if envelope.to_bytes() != content or not _is_canonical(envelope.ciphertext):
            raise StoreCorrupted("what is stored there was damaged or cut short")
        return envelope


def seal(state: State, cipher: Cipher, place: str) -> Envelope:
    """Encrypt ``state`` for the store that calls itself ``place``.

    Values in the token's ``extra`` that JSON does not know are kept as their
    ``str``: the refresh token was spent for this answer, so it has to be saved.
    Raises ``StoreError`` where ``extra`` contains itself.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "reader": VERSION,
        "key": cipher.key_id,
        "kdf": None if cipher.kdf is None else dict(cipher.kdf),
        "lineage": state.lineage,
        "generation": state.generation,
    }
    content = _plain(header, place, state.token)
    if content is None:
        raise StoreError("the token's extra cannot be written as JSON: it contains itself")
    return Envelope(header, cipher.fernet.encrypt(content))


def _plain(header: Mapping[str, Any], place: str, token: Token | None) -> bytes | None:
    """Write the plain text; no frame that holds its parts is left for a traceback to show."""
    fields = None if token is None else token.to_dict()
    try:
        return _dump({"header": header, "place": place, "token": fields})
    except (ValueError, RecursionError):
        return None


def unseal(envelope: Envelope, keys: Keys, place: str) -> State:
    """Decrypt the state. Raises ``WrongKey`` or ``StoreCorrupted``."""
    content = _parse(keys.decrypt(envelope.ciphertext, envelope.key_id, envelope.kdf))
    if content is None:
        raise StoreCorrupted("what is stored there holds no state that this release knows")
    header, there, token = content
    if header != envelope.header:
        raise StoreCorrupted("what is stored there was damaged: its header is another state's")
    if there != place:
        raise StoreCorrupted(
            f"what is stored there was made for {there!r} and lies in the place of {place!r}: "
            "put it back where it was, or start anew with the store's reset()"
        )
    return State(envelope.header["lineage"], envelope.header["generation"], token)


def _parse(decrypted: bytes) -> tuple[Any, Any, Token | None] | None:
    """Read the plain text; no frame that holds it is left for a traceback to show."""
    try:
        content = json.loads(decrypted.decode())
        fields = content["token"]
        token = None if fields is None else Token.from_dict(fields)
        return content["header"], content["place"], token
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _dump(content: Mapping[str, Any]) -> bytes:
    return _encode(content).encode()


def _is_canonical(ciphertext: bytes) -> bool:
    """Base64 has several spellings of one content, and Python's decoder takes them all."""
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(ciphertext)) == ciphertext
    except binascii.Error:
        return False
