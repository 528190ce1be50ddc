"""``Passphrase``: a key made of what a person can remember."""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..redaction import Secret
from ..secret_sources import ask
from ..system.forking import reset_in_child
from .key_source import KDFParameters, Key, KeySource

# What new states are made with: RFC 9106 section 4, second choice (64 MiB), and
# for scrypt what takes about as long.
_ARGON2ID = {"name": "argon2id", "memory_kib": 64 * 1024, "iterations": 3, "lanes": 4}
_SCRYPT = {"name": "scrypt", "n": 2**17, "r": 8, "p": 1}

# What is accepted from a stored header, which anybody may have written there:
# the floor keeps what is saved next from being weak, the ceiling keeps a planted
# file from taking all the memory or an hour.
_BOUNDS = {
    "argon2id": {"memory_kib": (19 * 1024, 1024 * 1024), "iterations": (1, 16), "lanes": (1, 16)},
    "scrypt": {"n": (2**15, 2**20), "r": (8, 16), "p": (1, 16)},
}
_SALT_BYTES = 16


class Passphrase(KeySource):
    """Derives the key from ``passphrase``, a ``str`` or a callable that returns one.

    With Argon2id where ``cryptography`` and its OpenSSL have it (44 and 3.2),
    else with scrypt. Salt and parameters are stored beside what is encrypted.
    Deriving takes about 0.2 s and 64 MiB (scrypt: 0.5 s, 128 MiB), once per
    process and salt; the callable is asked that often and may block. Raises
    ``ValueError`` for an empty passphrase. Pickled only with a callable.
    """

    def __init__(self, passphrase: str | Callable[[], str]) -> None:
        if isinstance(passphrase, str):
            if not passphrase:
                raise ValueError("the passphrase is empty")
            self._source: Secret | Callable[[], str] = Secret(passphrase)
        elif callable(passphrase):
            self._source = passphrase
        else:
            raise TypeError("a passphrase is a str, or a callable that returns one")
        self._derived: dict[str, Key] = {}
        self._own: KDFParameters | None = None
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        # Held while deriving: 64 threads must not take 64 times the memory.
        self._lock = threading.Lock()

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        return () if kdf is None else (self._derive(kdf),)

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        if kdf is None:
            if self._own is None:
                self._own = _new_parameters()
            kdf = self._own
        return self._derive(kdf)

    def absence(self) -> str:
        return "a passphrase was given, which is not what they were encrypted with"

    def _derive(self, kdf: KDFParameters) -> Key:
        name = json.dumps(kdf, sort_keys=True)
        with self._lock:
            key = self._derived.get(name)
            if key is None:
                key = Key(base64.urlsafe_b64encode(_derive(self._ask(), kdf)), kdf)
                self._derived[name] = key
        return key

    def _ask(self) -> Secret:
        if isinstance(self._source, Secret):
            return self._source
        answer = ask(
            self._source, "the passphrase", failed=StoreError, unavailable=StoreUnavailable
        )
        if not isinstance(answer, str):
            raise StoreError("the passphrase callable returned no passphrase")
        return Secret(answer)

    def __repr__(self) -> str:
        return "Passphrase(***)"

    def __reduce__(self) -> Any:
        if isinstance(self._source, Secret):
            raise TypeError(
                "a store that holds a literal passphrase is not pickled, it would go along: give "
                "Passphrase a callable, such as FromEnvironment(name) or FromFile(path)"
            )
        return type(self), (self._source,)


def _new_parameters() -> KDFParameters:
    salt = base64.b64encode(os.urandom(_SALT_BYTES)).decode()
    return {**(_ARGON2ID if _has_argon2id() else _SCRYPT), "salt": salt}


def _has_argon2id() -> bool:
    try:
        _kdf(_ARGON2ID, bytes(_SALT_BYTES))
    except StoreError:
        return False
    return True


def _derive(passphrase: Secret, kdf: KDFParameters) -> bytes:
    salt = _check(kdf)
    try:
        # One text has several encodings in Unicode, and keyboards differ in which they send.
        text = unicodedata.normalize("NFC", passphrase.reveal())
        derived: bytes = _kdf(kdf, salt).derive(text.encode())
    except MemoryError:
        raise StoreUnavailable(
            "there is too little memory to make the key of the passphrase: try again"
        ) from None
    return derived


def _check(kdf: KDFParameters) -> bytes:
    """Refuse parameters outside the bounds; returns the salt."""
    bounds = _BOUNDS.get(str(kdf.get("name")))
    if bounds is None:
        raise StoreError(
            f"the key was made with {kdf.get('name')!r}, which this release does not know: "
            "upgrade requests-silent-refresh"
        )
    for name, (least, most) in bounds.items():
        value = kdf.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise StoreCorrupted(
                f"what is stored asks for a key made with {name}={value!r}, outside of {least} to "
                f"{most}: it was damaged, or not written by this package"
            )
    try:
        salt = base64.b64decode(kdf["salt"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        salt = b""
    if len(salt) != _SALT_BYTES:
        raise StoreCorrupted("what is stored has no usable salt: it was damaged")
    return salt


def _kdf(kdf: KDFParameters, salt: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    if kdf["name"] == "scrypt":
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        return Scrypt(salt=salt, length=32, n=kdf["n"], r=kdf["r"], p=kdf["p"])
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return Argon2id(
            salt=salt,
            length=32,
            iterations=kdf["iterations"],
            lanes=kdf["lanes"],
            memory_cost=kdf["memory_kib"],
        )
    except (ImportError, UnsupportedAlgorithm):
        raise StoreError(
            "the key is made of the passphrase with Argon2id, which the installed cryptography "
            "lacks: it needs version 44 with OpenSSL 3.2"
        ) from None
