"""What every source of keys is, and the plain ones: a literal, a callable, several."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from ..errors import StoreError, StoreUnavailable
from ..secret_sources import ask

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


@dataclasses.dataclass(frozen=True)
class Key:
    """A Fernet key, and the parameters it was derived with if it was."""

    value: bytes = dataclasses.field(repr=False)
    kdf: KDFParameters | None = None
    id: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", key_id(self.value))


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
        """Say in a clause why :meth:`for_reading` gave nothing."""
        return f"{self!r} has no key"


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
            answer = ask(self._source, "the key", failed=StoreError, unavailable=StoreUnavailable)
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

    def forget(self) -> bool:
        known, self._keys = self._keys, ()
        return bool(known)

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
        forgotten = [source.forget() for source in self._sources]  # each of them, not the first
        return any(forgotten)

    def absence(self) -> str:
        return "; ".join(source.absence() for source in self._sources)

    def __reduce__(self) -> Any:
        return type(self), (self._sources,)
