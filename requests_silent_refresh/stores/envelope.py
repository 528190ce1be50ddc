"""The format of a stored state, which is the same in files and in engines.

Two lines of text::

    {"format":"requests-silent-refresh tokens","version":1,"reader":1,"key":"3f0c...", ...}
    gAAAAABo...

The first line is the header. ``version`` is the version of the format, ``reader``
the oldest version that a reader must support, ``key`` the identifier of the key,
``kdf`` the parameters it was derived with (or null), ``lineage`` and
``generation`` identify the state. The second line is a Fernet token (encrypted,
authenticated, without a lifetime, because a slow clock must not invalidate a good
file). Its content repeats the header, names the place it was written for and the
identity (token endpoint and client) that its token belongs to. So the header cannot
be changed, one session's state cannot be replaced by another's, and a token is never
used for another server. A state without an identity is accepted.

A state that differs from what :func:`seal` wrote, even by one bit, is rejected.
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
from ..system.private_files import SIZE_LIMIT
from ..token import Token
from .contract import State

FORMAT = "requests-silent-refresh tokens"
VERSION = 1

# Created once: json.dumps would create an encoder for every header that is read.
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
    """A state in its encrypted form, which an engine may see."""

    header: Mapping[str, Any]
    ciphertext: bytes

    @property
    def key_id(self) -> str:
        """The identifier of the key that encrypted the state."""
        return str(self.header["key"])

    @property
    def kdf(self) -> KDFParameters | None:
        """The parameters that the key was derived with; ``None`` if it was not derived."""
        kdf: KDFParameters | None = self.header["kdf"]
        return kdf

    def to_bytes(self) -> bytes:
        """Return the text to store. Raises ``StoreError`` if it is too long to be read again."""
        content = self._text()
        if len(content) > SIZE_LIMIT:
            raise StoreError(
                f"a token of {len(content)} bytes is too large to be stored: the limit is "
                f"{SIZE_LIMIT} bytes"
            )
        return content

    def _text(self) -> bytes:
        return b"%s\n%s\n" % (_dump(self.header), self.ciphertext)

    @classmethod
    def from_bytes(cls, content: bytes) -> Envelope:
        """Parse the text that :meth:`to_bytes` returned.

        Raises ``StoreCorrupted``, or ``StoreError`` if the format is too new.
        """
        first, _, rest = content.partition(b"\n")
        try:
            header = json.loads(first.decode())
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise StoreCorrupted("the stored state was not written by this package, or was damaged")
        reader = header.get("reader")
        if isinstance(reader, int) and reader > VERSION:
            raise StoreError(
                f"the stored state has format {header.get('version')} and needs a "
                f"requests-silent-refresh that reads format {reader}; this one reads up to "
                f"{VERSION}: upgrade it"
            )
        for name, kind in _FIELDS:
            value = header.get(name, ...)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise StoreCorrupted(
                    f"the stored state was damaged: its {name} is missing or invalid"
                )
        envelope = cls(header, rest[:-1])
        if envelope._text() != content or not _is_canonical(envelope.ciphertext):
            raise StoreCorrupted("the stored state was damaged or truncated")
        return envelope


def seal(state: State, cipher: Cipher, place: str) -> Envelope:
    """Encrypt ``state`` for the store that is identified by ``place``.

    Values in the token's ``extra`` that JSON cannot represent are saved as their
    ``str``, because the answer must be saved: the refresh token was spent for it.
    Raises ``StoreError`` if ``extra`` contains itself.
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
    content = _plain(header, place, state)
    if content is None:
        raise StoreError(
            "the token's extra cannot be saved as JSON, because it contains itself: remove that"
        )
    return Envelope(header, cipher.fernet.encrypt(content))


def _plain(header: Mapping[str, Any], place: str, state: State) -> bytes | None:
    """Return the plain text, or ``None``: an exception's traceback would hold its parts."""
    fields = None if state.token is None else state.token.to_dict()
    bound = {"place": place, "identity": state.identity}
    try:
        return _dump({"header": header, **bound, "token": fields})
    except (ValueError, RecursionError):
        return None


def unseal(envelope: Envelope, keys: Keys, place: str, *, any_folder: bool = False) -> State:
    """Decrypt the state. Raises ``WrongKey`` or ``StoreCorrupted``.

    With ``any_folder`` a place that ends in ``/PLACE`` is accepted too.
    """
    content = _parse(keys.decrypt(envelope.ciphertext, envelope.key_id, envelope.kdf))
    if content is None:
        raise StoreCorrupted("the stored state has contents that this release does not know")
    header, there, identity, token = content
    if header != envelope.header:
        raise StoreCorrupted("the stored state was damaged: its header belongs to another state")
    if there != place and not (any_folder and there.endswith(f"/{place}")):
        raise StoreCorrupted(
            f"the stored state was made for {there!r} but was found at {place!r}: move it "
            "back, or call the store's reset() and sign in again"
        )
    return State(envelope.header["lineage"], envelope.header["generation"], token, identity)


def _parse(decrypted: bytes) -> tuple[Any, str, str | None, Token | None] | None:
    """Parse the plain text; ``None`` if it is invalid: a traceback would hold the text."""
    try:
        content = json.loads(decrypted.decode())
        fields = content["token"]
        token = None if fields is None else Token.from_dict(fields)
        place, identity = str(content["place"]), content.get("identity")
        return content["header"], place, None if identity is None else str(identity), token
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _dump(content: Mapping[str, Any]) -> bytes:
    return _encode(content).encode()


def _is_canonical(ciphertext: bytes) -> bool:
    """Return whether the spelling is the standard one: Python's base64 decoder accepts others."""
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(ciphertext)) == ciphertext
    except binascii.Error:
        return False
