"""The ciphers that a store encrypts and decrypts with, made from its key sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .. import arguments
from ..errors import StoreCorrupted, WrongKey
from .key_file import default_key_file
from .key_source import Asked, KDFParameters, Key, KeySource, Literal, Several

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


_OneKey: TypeAlias = bytes | bytearray | str | KeySource | Callable[[], object]
KeyLike: TypeAlias = _OneKey | Sequence[_OneKey]
"""The types that a store accepts as ``key``."""


def as_source(key: KeyLike | None) -> KeySource:
    """Return the source for the ``key`` that a store was given.

    Raises ``ValueError`` for a malformed key or an empty sequence, and
    ``TypeError`` for any other type.
    """
    if key is None:
        return default_key_file()
    if isinstance(key, KeySource):
        return key
    if isinstance(key, (bytes, bytearray, memoryview)):
        return Literal(bytes(key))
    if isinstance(key, str):
        return Literal(key)
    if isinstance(key, Sequence):
        several: Sequence[Any] = key  # mypy thinks that bytes, a sequence of int, gets here
        return Several([as_source(one) for one in several])
    arguments.functions(
        "a Fernet key, a callable, a KeyFile, a Passphrase, a KeyringKey or a sequence of these",
        key=key,
    )
    return Asked(key)


class Cipher(NamedTuple):
    """A key ready for use; ``kdf`` is ``None`` unless the key was derived from a passphrase.

    >>> cipher = Keys(default_key_file()).encrypting(None)
    >>> cipher.fernet.decrypt(cipher.fernet.encrypt(b"tokens"))
    b'tokens'
    """

    key_id: str
    fernet: Fernet
    kdf: KDFParameters | None


class Keys:
    """The keys of one store: encrypts with the first, decrypts with the one that matches.

    >>> keys = Keys(default_key_file())
    >>> cipher = keys.encrypting(None)
    >>> keys.decrypt(cipher.fernet.encrypt(b"tokens"), cipher.key_id, cipher.kdf)
    b'tokens'
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._ciphers: dict[str, Cipher] = {}

    def encrypting(self, kdf: KDFParameters | None) -> Cipher:
        """Return the cipher to encrypt with; for ``kdf`` see :meth:`KeySource.for_writing`."""
        return self._cipher(self._source.for_writing(kdf))

    def decrypt(self, content: bytes, stored_key_id: str, kdf: KDFParameters | None) -> bytes:
        """Decrypt ``content``, which was encrypted with the key ``stored_key_id``.

        Raises ``WrongKey`` if the source has no such key, and ``StoreCorrupted``
        if it has the key but the key does not decrypt the content.
        """
        for again in (True, False):
            ciphers = [self._cipher(key) for key in self._source.for_reading(kdf)]
            for cipher in ciphers:
                if cipher.key_id == stored_key_id:
                    decrypted = _try(cipher, content)
                    if decrypted is None:
                        raise StoreCorrupted(
                            "the stored state was damaged, or changed without the key"
                        )
                    return decrypted
            # The key may have been rotated elsewhere: the source may know it by now.
            if not (again and self._source.forget()):
                break
        raise self._wrong_key(content, stored_key_id, kdf, ciphers)

    def _wrong_key(
        self, content: bytes, stored: str, kdf: KDFParameters | None, ciphers: Sequence[Cipher]
    ) -> WrongKey | StoreCorrupted:
        if any(_try(cipher, content) is not None for cipher in ciphers):
            return StoreCorrupted("the stored state was damaged: it names the wrong key")
        tried = tuple(cipher.key_id for cipher in ciphers)
        found = f"the available keys are {', '.join(tried)}" if tried else self._source.absence()
        derived = "" if kdf is None else " (derived from a passphrase)"
        return WrongKey(
            f"the tokens were encrypted with key {stored}{derived}, and {found}. Give the store "
            "that key; while a key is being replaced, every process needs the new one before any "
            "of them encrypts with it. If the key is lost, call the store's reset() and sign in "
            "again",
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
