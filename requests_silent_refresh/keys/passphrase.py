"""``Passphrase``: a key derived from a passphrase."""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from .. import arguments
from ..errors import StoreCorrupted, StoreError, StoreUnavailable
from ..redaction import Secret
from ..secret_sources import ask
from ..system.forking import reset_in_child
from .key_source import KDFParameters, Key, KeySource

# For new states: the second recommended option of RFC 9106 section 4 (64 MiB), and
# scrypt parameters that take about as long.
_ARGON2ID = {"name": "argon2id", "memory_kib": 64 * 1024, "iterations": 3, "lanes": 4}
_SCRYPT = {"name": "scrypt", "n": 2**17, "r": 8, "p": 1}

# Limits for a stored header, which is not trusted: the minimum keeps a planted file
# from weakening the key of the next save, the maximum from using up memory or an hour.
_BOUNDS = {
    "argon2id": {"memory_kib": (19 * 1024, 1024 * 1024), "iterations": (1, 16), "lanes": (1, 16)},
    "scrypt": {"n": (2**15, 2**20), "r": (8, 16), "p": (1, 16)},
}
_SALT_BYTES = 16


class Passphrase(KeySource):
    """Derives the key from ``passphrase``, a ``str`` or a callable that returns one.

    >>> import getpass
    >>> store = EncryptedFileStore("tokens", key=Passphrase(getpass.getpass))

    Uses Argon2id if ``cryptography`` and its OpenSSL support it (versions 44 and 3.2), otherwise
    scrypt. Salt and parameters are stored with the encrypted state. The key is derived once per
    process and salt, in about 0.2 s and with 64 MiB (scrypt: 0.5 s, 128 MiB). The callable is
    called each time and may block. Raises ``ValueError`` if the passphrase is empty, and
    ``TypeError`` if it is neither a ``str`` nor a callable. Can be pickled only if it was given
    a callable.
    """

    def __init__(self, passphrase: str | Callable[[], str]) -> None:
        if isinstance(passphrase, str):
            if not passphrase:
                raise ValueError("the passphrase is empty")
            self._source: Secret | Callable[[], str] = Secret(passphrase)
        else:
            arguments.functions("a str, or a callable that returns one", passphrase=passphrase)
            self._source = passphrase
        self._derived: dict[str, Key] = {}
        self._own: KDFParameters | None = None
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        # Held while deriving: 64 threads must not use 64 times the memory.
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
        return "the store was given a passphrase, but they were not encrypted with one"

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
            raise StoreError("the passphrase callable returned no passphrase: it must return a str")
        return Secret(answer)

    def __repr__(self) -> str:
        return "Passphrase(***)"

    def __reduce__(self) -> Any:
        if isinstance(self._source, Secret):
            raise TypeError(
                "cannot pickle a store that holds a literal passphrase, because the pickle would "
                "contain it: give Passphrase a callable, for example FromEnvironment(name) or "
                "FromFile(path)"
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
        # Unicode can spell one text in several ways, and keyboards differ in which they send.
        text = unicodedata.normalize("NFC", passphrase.reveal())
        # Python reads undecodable bytes of the environment as surrogates.
        derived: bytes = _kdf(kdf, salt).derive(text.encode(errors="surrogatepass"))
    except MemoryError:
        raise StoreUnavailable(
            "there is not enough memory to derive the key from the passphrase: try again"
        ) from None
    return derived


def _check(kdf: KDFParameters) -> bytes:
    """Return the salt; raises ``StoreCorrupted`` if a parameter is outside its limits."""
    bounds = _BOUNDS.get(str(kdf.get("name")))
    if bounds is None:
        raise StoreError(
            f"the key was derived with {kdf.get('name')!r}, which this release does not support: "
            "upgrade requests-silent-refresh"
        )
    for name, (least, most) in bounds.items():
        value = kdf.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise StoreCorrupted(
                f"the stored state asks for a key derived with {name}={value!r}, which is not in "
                f"{least} to {most}: it was damaged, or not written by this package"
            )
    try:
        salt = base64.b64decode(kdf["salt"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        salt = b""
    if len(salt) != _SALT_BYTES:
        raise StoreCorrupted("the stored state has no usable salt: it was damaged")
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
            "the key is derived with Argon2id, which the installed cryptography does not support: "
            "install version 44 or later, with OpenSSL 3.2 or later"
        ) from None
