"""``KeyFile``: keys in a private file of the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from .. import arguments
from ..errors import StoreError, StoreUnavailable
from ..system import private_files
from ..system.kernel_lock import KernelLock
from ..system.paths import user_directory
from .key_source import KDFParameters, Key, KeySource, found_key, generate_key


class KeyFile(KeySource):
    """A file with a Fernet key on each line; the first encrypts, all decrypt.

    >>> key = KeyFile("report.key", make=True)
    >>> store = EncryptedFileStore("tokens", key=key)

    The file must belong to this user, must not be a link, and is kept at mode 0600; use
    ``FromFile`` for a secret that a container platform mounts. Empty lines and lines that start
    with ``#`` are ignored. The file is read again after it has changed.

    With ``make=True`` the file is created the first time something is encrypted. If the file is
    missing while an encrypted state exists, that is an error, and the file is not created.

    The file is not touched until the key is used. ``StoreError`` is raised then if the file
    breaks one of these rules. Raises ``TypeError`` or ``ValueError`` if ``path`` cannot be the
    path of a file or ``make`` is not a ``bool``.
    """

    def __init__(self, path: str | os.PathLike[str], make: bool = False) -> None:
        self.path = arguments.path("path", path)
        arguments.flags(make=make)
        self.make = make
        self._read: tuple[tuple[int, ...], tuple[Key, ...]] | None = None

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        signature = private_files.signature(self.path)
        read = self._read
        if read is not None and read[0] == signature:
            return read[1]
        keys = self._load()
        # If the file changed while it was read, the older signature causes another read.
        self._read = None if signature is None or not keys else (signature, keys)
        return keys

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        if self.make and not self.for_reading(kdf):
            self._change(lambda keys: keys or (generate_key(),))
        return super().for_writing(kdf)

    def add_key(self) -> str:
        """Insert a new key before the others and return its identifier.

        This is the first step of a rotation. Then call ``store.rotate_key()`` on
        each store that uses the file, and finally :meth:`retire_keys`.
        """
        self._change(lambda keys: (generate_key(), *keys))
        return self.for_reading(None)[0].id

    def retire_keys(self, keep: int) -> None:
        """Remove all but the first ``keep`` keys. States encrypted with the others are lost.

        This is the last step of a rotation, after ``rotate_key()`` has been called
        on every store that uses the file.
        """
        if keep < 1:
            raise ValueError("keep must be at least 1: the first key is in use")
        self._change(lambda keys: keys[:keep])

    def absence(self) -> str:
        return f"the key file {self.path} is missing or holds no key"

    def _load(self) -> tuple[Key, ...]:
        content = private_files.read_private(self.path)
        keys = []
        for number, line in enumerate((content or b"").splitlines(), 1):
            if line.strip() and not line.lstrip().startswith(b"#"):
                keys.append(found_key(line, f"line {number} of {self.path}"))
        return tuple(keys)

    def _change(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        lock = KernelLock(self.path + ".lock")
        try:
            lock.acquire(10.0)
            present = tuple(key.value.decode() for key in self._load())
            wanted = change(present)
            if wanted != present:
                private_files.write_private(self.path + ".new", ("\n".join(wanted) + "\n").encode())
                private_files.rename(self.path + ".new", self.path)
        except StoreError:
            raise
        except OSError as error:
            raise StoreUnavailable(
                f"the key file {self.path} cannot be written ({error.strerror}: {error.filename}). "
                "Fix that, or give the store a key from elsewhere"
            ) from None
        finally:
            lock.release()

    def __repr__(self) -> str:
        return f"KeyFile({self.path!r})"

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.make)


def default_key_file() -> KeyFile:
    """Return the key file that stores without ``key`` use: one per user, made at first use.

    It is in the user's data directory, separate from any state directory. Raises ``StoreError``
    if the user's home directory is not known.
    """
    return KeyFile(os.path.join(user_directory("data"), "keys", "default.key"), make=True)
