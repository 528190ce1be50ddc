"""Where the keys come from that encrypt a store, and how one takes another's place.

What a store takes as ``key``:

- a Fernet key, ``bytes`` or ``str``, as :func:`generate_key` makes it;
- a callable without arguments that returns one, or several (a KMS,
  :class:`~requests_silent_refresh.sources.FromEnvironment`,
  :class:`~requests_silent_refresh.sources.FromFile`);
- :class:`KeyFile`, :class:`~requests_silent_refresh.passphrase.Passphrase` or
  :class:`~requests_silent_refresh.keyring_key.KeyringKey`;
- a sequence of these: the first encrypts, all decrypt. That is how keys rotate:
  put the new one in front, let ``store.rotate_key()`` encrypt what is stored
  anew, take the old one away.
- ``None``: :func:`default_key_file`.

*The default key file protects tokens that leave the machine without their key,
not from anyone who can run code as you.*
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from . import files
from .errors import StoreCorrupted, StoreError, StoreUnavailable, WrongKey
from .locks import KernelLock
from .redaction import strip

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

LITERAL_KEY_PICKLED = (
    "a store that holds a literal key is not pickled, the key would go along: give it something "
    "that says where the key is, such as KeyFile(path), FromEnvironment(name) or a function"
)

KDFParameters: TypeAlias = Mapping[str, Any]


def generate_key() -> str:
    """Return a new random Fernet key, to be kept where only you can read it."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def key_id(key: bytes) -> str:
    """Return the short identifier of a key. It says nothing about the key."""
    return hashlib.sha256(b"requests-silent-refresh key id\0" + key).hexdigest()[:12]


class Key(NamedTuple):
    """A Fernet key, and the parameters it was derived with if it was."""

    value: bytes
    kdf: KDFParameters | None = None

    def __repr__(self) -> str:
        return f"Key(id={key_id(self.value)})"


def read_key(text: object, whence: str) -> Key:
    """Make a key of what somebody gave. Raises ``ValueError``, which does not hold it."""
    value = text.encode() if isinstance(text, str) else text
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).strip().translate(bytes.maketrans(b"+/", b"-_"))
        try:
            decoded = base64.urlsafe_b64decode(value)
        except binascii.Error:
            decoded = b""
        # Compared, because the decoder passes over characters that it does not know.
        if len(decoded) == 32 and base64.urlsafe_b64encode(decoded) == value:
            return Key(value)
    raise ValueError(
        f"{whence} is not a Fernet key (32 random bytes in URL-safe base64): make one with "
        "requests_silent_refresh.keys.generate_key(), or use Passphrase(...) for a passphrase"
    )


class KeySource(ABC):
    """Something that knows where keys are. Thread-safe.

    ``pickled`` only where it holds no secret itself.
    """

    @abstractmethod
    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        """Return every key that may have encrypted what was stored with ``kdf``.

        Empty where there is none (yet). Makes none.
        """

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        """Return the key to encrypt with; may make it.

        ``kdf`` is what the present state was stored with; a key derived with
        the same parameters need not be derived again by everybody.
        """
        keys = self.for_reading(kdf)
        if not keys:
            raise StoreError(self.absence())
        return keys[0]

    def forget(self) -> bool:
        """Drop what was remembered, and say whether there was any: asking again may help."""
        return False

    def absence(self) -> str:
        """Say in a sentence why :meth:`for_reading` gave nothing."""
        return "no key was given"


class Literal(KeySource):
    """A key written into the program."""

    def __init__(self, key: bytes | str) -> None:
        self._keys = (read_key(key, "the key"),)

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        return self._keys

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(LITERAL_KEY_PICKLED)


class Asked(KeySource):
    """A callable that returns a key or several; asked once, and again when a key is unknown."""

    def __init__(self, source: Callable[[], Any]) -> None:
        self._source = source
        self._keys: tuple[Key, ...] = ()

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        if not self._keys:
            answer = self._ask()
            several = not isinstance(answer, (str, bytes, bytearray)) and isinstance(
                answer, Iterable
            )
            try:
                self._keys = tuple(
                    read_key(one, "what the key callable returned")
                    for one in (answer if several else (answer,))
                )
            except ValueError as error:
                raise StoreError(str(error)) from None
        return self._keys

    def _ask(self) -> Any:
        try:
            return self._source()
        except OSError as error:  # requests' errors are of this kind too
            raise StoreUnavailable(
                f"the key cannot be had: the key callable raised {type(error).__name__}"
            ) from strip(error)
        except Exception as error:  # noqa: BLE001 (the user's callable may raise anything)
            raise StoreError(
                f"the key cannot be had: the key callable raised {type(error).__name__}"
                + (f": {error}" if isinstance(error, LookupError) else "")
            ) from strip(error)

    def forget(self) -> bool:
        known, self._keys = self._keys, ()
        return bool(known)

    def absence(self) -> str:
        return "the key callable returned no key"

    def __reduce__(self) -> Any:
        return type(self), (self._source,)


class KeyFile(KeySource):
    """A file with a Fernet key on each line; the first encrypts, all decrypt.

    The file must be this user's own, 0600 and no link; a secret that a container
    platform mounts is read with ``FromFile`` instead. Lines that are empty or
    start with ``#`` do not count. The file is read again when it changed.

    ``make=True`` makes the file when something is encrypted first. A file that
    is missing while something encrypted exists is an error and never made anew.

    Errors come with use: ``StoreError`` for a file that breaks these rules.
    """

    def __init__(self, path: str | os.PathLike[str], make: bool = False) -> None:
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.make = make
        self._read: tuple[tuple[int, ...], tuple[Key, ...]] | None = None

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        signature = files.signature(self.path)
        read = self._read
        if read is not None and read[0] == signature:
            return read[1]
        keys = self._load()
        # A file that changes while it is read gets the older signature, and is read again.
        self._read = None if signature is None or not keys else (signature, keys)
        return keys

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        if self.make and not self.for_reading(kdf):
            self._change(lambda keys: keys or (generate_key(),))
        return super().for_writing(kdf)

    def add_key(self) -> str:
        """Put a new key in front of the others, and return its identifier.

        The first step of a rotation; then ``store.rotate_key()`` for each store
        that uses the file, and when all are done the old lines may go.
        """
        self._change(lambda keys: (generate_key(), *keys))
        return key_id(self.for_reading(None)[0].value)

    def absence(self) -> str:
        return f"the key file {self.path} is missing or holds no key"

    def _load(self) -> tuple[Key, ...]:
        content = files.read_private(self.path)
        keys = []
        for number, line in enumerate((content or b"").splitlines(), 1):
            if line.strip() and not line.lstrip().startswith(b"#"):
                try:
                    keys.append(read_key(line, f"line {number} of {self.path}"))
                except ValueError as error:
                    raise StoreError(str(error)) from None
        return tuple(keys)

    def _change(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        lock = KernelLock(self.path + ".lock")
        lock.acquire(10.0)
        try:
            present = tuple(key.value.decode() for key in self._load())
            wanted = change(present)
            if wanted != present:
                files.write_private(self.path + ".new", ("\n".join(wanted) + "\n").encode())
                files.rename(self.path + ".new", self.path)
        finally:
            lock.release()

    def __repr__(self) -> str:
        return f"KeyFile({self.path!r})"

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.make)


def default_key_file() -> KeyFile:
    """Return the key file that a store without ``key`` uses, one per user, made at first use.

    It lies in the user's data directory, away from any state directory.
    """
    from platformdirs import user_data_dir

    folder = user_data_dir("requests-silent-refresh", appauthor=False)
    return KeyFile(os.path.join(folder, "keys", "default.key"), make=True)


class Several(KeySource):
    """Sources in order: the first encrypts, all decrypt."""

    def __init__(self, sources: Sequence[KeySource]) -> None:
        if not sources:
            raise ValueError("key is an empty sequence: give at least one key, or None")
        self._sources = tuple(sources)

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        return [key for source in self._sources for key in source.for_reading(kdf)]

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        return self._sources[0].for_writing(kdf)

    def forget(self) -> bool:
        forgotten = [source.forget() for source in self._sources]  # each of them, not the first
        return any(forgotten)

    def absence(self) -> str:
        return "; ".join(source.absence() for source in self._sources)

    def __reduce__(self) -> Any:
        return type(self), (self._sources,)


def as_source(key: Any) -> KeySource:
    """Make a source of what a store was given as ``key``. Raises ``ValueError``, ``TypeError``."""
    if key is None:
        return default_key_file()
    if isinstance(key, KeySource):
        return key
    if isinstance(key, (bytes, bytearray, str)):
        return Literal(bytes(key) if isinstance(key, bytearray) else key)
    if isinstance(key, Sequence):
        return Several([as_source(one) for one in key])
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
        self._ciphers: dict[bytes, Cipher] = {}

    def encrypting(self, kdf: KDFParameters | None) -> Cipher:
        """Return the cipher to encrypt with; ``kdf`` as in :meth:`KeySource.for_writing`."""
        return self._cipher(self._source.for_writing(kdf))

    def decrypt(self, content: bytes, stored_key_id: str, kdf: KDFParameters | None) -> bytes:
        """Decrypt what was encrypted with the key ``stored_key_id``.

        Raises ``WrongKey`` where no key fits, ``StoreCorrupted`` where the key
        is ours and the content is not what it encrypted.
        """
        while True:
            ciphers = [self._cipher(key) for key in self._source.for_reading(kdf)]
            for cipher in ciphers:
                if cipher.key_id == stored_key_id:
                    decrypted = _try(cipher, content)
                    if decrypted is None:
                        raise StoreCorrupted(
                            "what is stored was damaged or changed by somebody without the key"
                        )
                    return decrypted
            if not self._source.forget():
                raise self._wrong_key(content, stored_key_id, ciphers)

    def _wrong_key(
        self, content: bytes, stored: str, ciphers: Sequence[Cipher]
    ) -> WrongKey | StoreCorrupted:
        if any(_try(cipher, content) is not None for cipher in ciphers):
            return StoreCorrupted("what is stored was damaged: the key's name in it is another's")
        tried = tuple(cipher.key_id for cipher in ciphers)
        found = f"the keys at hand are {', '.join(tried)}" if tried else self._source.absence()
        return WrongKey(
            f"the tokens were encrypted with key {stored}, and {found}. Give the key they were "
            "encrypted with, or start anew with the store's reset()",
            stored_key_id=stored,
            key_ids=tried,
        )

    def _cipher(self, key: Key) -> Cipher:
        cipher = self._ciphers.get(key.value)
        if cipher is None:
            from cryptography.fernet import Fernet

            cipher = Cipher(key_id(key.value), Fernet(key.value), key.kdf)
            self._ciphers[key.value] = cipher
        return cipher


def _try(cipher: Cipher, content: bytes) -> bytes | None:
    from cryptography.fernet import InvalidToken

    try:
        return cipher.fernet.decrypt(content)
    except InvalidToken:
        return None
