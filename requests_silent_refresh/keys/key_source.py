"""The base class of key sources, and the simple ones: a literal, a callable, several."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from ..errors import StoreError, StoreUnavailable
from ..secret_sources import ask
from ..system.forking import reset_in_child

KDFParameters: TypeAlias = Mapping[str, Any]


def generate_key() -> str:
    """Return a new random Fernet key. Keep it where only you can read it."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def key_id(key: bytes) -> str:
    """Return the short identifier of a key. It reveals nothing about the key."""
    return hashlib.sha256(b"requests-silent-refresh key id\0" + key).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Key:
    """A Fernet key, and the parameters it was derived with; ``None`` if it was not derived."""

    value: bytes = dataclasses.field(repr=False)
    kdf: KDFParameters | None = None
    id: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", key_id(self.value))


def read_key(text: object, whence: str) -> Key:
    """Parse a key. Raises ``ValueError``, which names ``whence`` and does not quote ``text``."""
    value = text.encode(errors="replace") if isinstance(text, str) else text
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).strip().translate(bytes.maketrans(b"+/", b"-_"))
        try:
            decoded = base64.urlsafe_b64decode(value)
        except binascii.Error:
            decoded = b""
        # The comparison is needed because the decoder ignores unknown characters.
        if len(decoded) == 32 and base64.urlsafe_b64encode(decoded) == value:
            return Key(value)
    raise ValueError(
        f"{whence} is not a Fernet key (32 random bytes in URL-safe base64): make one with "
        "requests_silent_refresh.keys.generate_key(), or use Passphrase(...) for a passphrase"
    )


def found_key(text: object, whence: str) -> Key:
    """Parse a key that was read when it was needed. Raises ``StoreError``, as :func:`read_key`."""
    try:
        return read_key(text, whence)
    except ValueError as error:
        raise StoreError(str(error)) from None


class KeySource(ABC):
    """The base of everything that provides keys. Thread-safe.

    A subclass implements :meth:`for_reading`. It must refuse to be pickled if it
    holds a secret itself.

    >>> from requests_silent_refresh.keys import as_source
    >>> class InMemory(KeySource):
    ...     keys = as_source(generate_key()).for_reading(None)
    ...
    ...     def for_reading(self, kdf):
    ...         return self.keys
    >>> store = EncryptedFileStore("tokens", key=InMemory())
    """

    @abstractmethod
    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        """Return every key that may have encrypted a state stored with ``kdf``.

        Returns an empty sequence if there is no key (yet). Never creates a key.
        """

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        """Return the key to encrypt with, and create it if necessary.

        ``kdf`` holds the parameters of the state that is replaced. A derived key
        keeps them, so that other processes need not derive it again; ``None``
        asks for new ones. Raises ``StoreError`` if there is no key.
        """
        keys = self.for_reading(kdf)
        if not keys:
            raise StoreError(self.absence())
        return keys[0]

    def forget(self) -> bool:
        """Drop the remembered keys. Returns True if there were any: reading again may help."""
        return False

    def absence(self) -> str:
        """Return a clause that says why :meth:`KeySource.for_reading` returned no key."""
        return f"{self!r} has no key"


class Literal(KeySource):
    """A key written into the program."""

    def __init__(self, key: bytes | str) -> None:
        self._keys = (read_key(key, "the key"),)

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        return self._keys

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "cannot pickle a store that holds a literal key, because the pickle would contain it: "
            "use KeyFile(path), FromEnvironment(name) or a function instead"
        )


class Remembered(KeySource):
    """A source that is read once, and again after :meth:`forget`.

    Threads that need the keys at the same time wait for one of them to read.
    """

    def __init__(self) -> None:
        self._keys: tuple[Key, ...] = ()
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._reading = threading.RLock()  # a source may read a store that has it as its key

    @abstractmethod
    def fetch(self) -> tuple[Key, ...]:
        """Return the keys as they are now; called by :meth:`KeySource.for_reading`."""

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        if not self._keys:
            with self._reading:
                self._keys = self._keys or self.fetch()
        return self._keys

    def forget(self) -> bool:
        known, self._keys = self._keys, ()
        return bool(known)


class Asked(Remembered):
    """A callable that returns a key or several; called once, and again for an unknown key."""

    def __init__(self, source: Callable[[], Any]) -> None:
        super().__init__()
        self._source = source

    def fetch(self) -> tuple[Key, ...]:
        answer = ask(self._source, "the key", failed=StoreError, unavailable=StoreUnavailable)
        one_key = isinstance(answer, (str, bytes, bytearray)) or not isinstance(answer, Iterable)
        keys = (answer,) if one_key else answer
        return tuple(found_key(key, "what the key callable returned") for key in keys)

    def __reduce__(self) -> Any:
        return type(self), (self._source,)


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
        forgotten = [source.forget() for source in self._sources]  # a list: any() would stop early
        return any(forgotten)

    def absence(self) -> str:
        return "; ".join(source.absence() for source in self._sources)

    def __reduce__(self) -> Any:
        return type(self), (self._sources,)
