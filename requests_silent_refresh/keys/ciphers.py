"""From sources to ciphers: what a store encrypts and decrypts with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import StoreCorrupted, WrongKey
from .key_file import default_key_file
from .key_source import Asked, KDFParameters, Key, KeySource, Literal, Several

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


_OneKey: TypeAlias = bytes | bytearray | str | KeySource | Callable[[], object]
KeyLike: TypeAlias = _OneKey | Sequence[_OneKey]
"""What a store takes as ``key``."""


def as_source(key: KeyLike | None) -> KeySource:
    """Make a source of what a store was given as ``key``. Raises ``ValueError``, ``TypeError``."""
    if key is None:
        return default_key_file()
    if isinstance(key, KeySource):
        return key
    if isinstance(key, (bytes, bytearray, memoryview)):
        return Literal(bytes(key))
    if isinstance(key, str):
        return Literal(key)
    if isinstance(key, Sequence):
        several: Sequence[Any] = key  # the type checker would have bytes among them, and so int
        return Several([as_source(one) for one in several])
    if callable(key):
        return Asked(key)
    raise TypeError(
        f"key is a Fernet key, a callable, a KeyFile, a Passphrase, a KeyringKey or a sequence of "
        f"these, not {type(key).__name__}"
    )


class Cipher(NamedTuple):
    """A key ready for use."""

    key_id: str
    fernet: Fernet
    kdf: KDFParameters | None


class Keys:
    """The keys of one store: encrypts with the first, decrypts with the one that fits."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._ciphers: dict[str, Cipher] = {}

    def encrypting(self, kdf: KDFParameters | None) -> Cipher:
        """Return the cipher to encrypt with; ``kdf`` as in :meth:`KeySource.for_writing`."""
        return self._cipher(self._source.for_writing(kdf))

    def decrypt(self, content: bytes, stored_key_id: str, kdf: KDFParameters | None) -> bytes:
        """Decrypt what was encrypted with the key ``stored_key_id``.

        Raises ``WrongKey`` where no key fits, ``StoreCorrupted`` where the key
        is ours and the content is not what it encrypted.
        """
        for again in (True, False):
            ciphers = [self._cipher(key) for key in self._source.for_reading(kdf)]
            for cipher in ciphers:
                if cipher.key_id == stored_key_id:
                    decrypted = _try(cipher, content)
                    if decrypted is None:
                        raise StoreCorrupted(
                            "what is stored was damaged or changed by somebody without the key"
                        )
                    return decrypted
            # A key that was rotated elsewhere is known to the source, though not to us yet.
            if not (again and self._source.forget()):
                break
        raise self._wrong_key(content, stored_key_id, kdf, ciphers)

    def _wrong_key(
        self, content: bytes, stored: str, kdf: KDFParameters | None, ciphers: Sequence[Cipher]
    ) -> WrongKey | StoreCorrupted:
        if any(_try(cipher, content) is not None for cipher in ciphers):
            return StoreCorrupted("what is stored was damaged: the key's name in it is another's")
        tried = tuple(cipher.key_id for cipher in ciphers)
        found = f"the keys at hand are {', '.join(tried)}" if tried else self._source.absence()
        derived = "" if kdf is None else " (made of a passphrase)"
        return WrongKey(
            f"the tokens were encrypted with key {stored}{derived}, and {found}. Give the key "
            "they were encrypted with, or start anew with the store's reset()",
            stored_key_id=stored,
            key_ids=tried,
        )

    def _cipher(self, key: Key) -> Cipher:
        cipher = self._ciphers.get(key.id)
        if cipher is None:
            from cryptography.fernet import Fernet

            cipher = Cipher(key.id, Fernet(key.value), key.kdf)
            self._ciphers[key.id] = cipher
        return cipher


def _try(cipher: Cipher, content: bytes) -> bytes | None:
    from cryptography.fernet import InvalidToken

    try:
        return cipher.fernet.decrypt(content)
    except InvalidToken:
        return None
