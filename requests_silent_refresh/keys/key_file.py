"""``KeyFile``: keys in a file of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import StoreError
from ..system import private_files
from ..system.kernel_lock import KernelLock
from .key_source import KDFParameters, Key, KeySource, generate_key, read_key


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
        signature = private_files.signature(self.path)
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
        return self.for_reading(None)[0].id

    def retire_keys(self, keep: int) -> None:
        """Take all but the first ``keep`` keys away: what was encrypted with those is lost.

        The last step of a rotation, when every store that uses the file has been
        encrypted anew.
        """
        if keep < 1:
            raise ValueError("keep is at least 1: the first key is in use")
        self._change(lambda keys: keys[:keep])

    def absence(self) -> str:
        return f"the key file {self.path} is missing or holds no key"

    def _load(self) -> tuple[Key, ...]:
        content = private_files.read_private(self.path)
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
                private_files.write_private(self.path + ".new", ("\n".join(wanted) + "\n").encode())
                private_files.rename(self.path + ".new", self.path)
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
