"""A profile's settings file: JSON that people can read and edit, without secrets."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import SilentRefreshError
from ..system import private_files
from ..system.kernel_lock import KernelLock
from . import paths

FORMAT = "requests-silent-refresh profile"
VERSION = 1

_TIMEOUT = 10.0  # seconds; the lock is held only for a save and a rename


class ProfileError(SilentRefreshError):
    """The profile does not exist, or its settings cannot be used. Nothing was changed."""


def read(name: str) -> dict[str, Any] | None:
    """Return the settings of the profile ``name``; ``None`` if there is no such profile.

    Takes no lock, because the file is always replaced as a whole. Raises
    :class:`ProfileError` if the file cannot be used, and ``ValueError`` if
    ``name`` is invalid.
    """
    path = paths.settings_file(name)
    try:
        content = private_files.read_private(path)
    except (SilentRefreshError, OSError) as error:
        raise ProfileError(f"the settings of {name!r} cannot be read: {error}") from None
    if content is None:
        return None
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or settings.pop("format", None) != FORMAT:
        raise ProfileError(f"{path} does not contain a profile's settings: repair or remove it")
    version = settings.pop("version", None)
    if version != VERSION:
        raise ProfileError(
            f"{path} has version {version!r}, but this release reads version {VERSION}: upgrade "
            "requests-silent-refresh"
        )
    return settings


class Draft:
    """New settings, written to a file beside the current one; ``ProfileError`` if that fails.

    Must be created, and put in place or discarded, with the profile's lock held.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._path = paths.settings_file(name)
        content = json.dumps({"format": FORMAT, "version": VERSION, **settings}, indent=2)
        try:
            private_files.make_directories(os.path.dirname(self._path))
            private_files.write_private(self._path + ".new", content.encode() + b"\n")
        except OSError as error:
            self.discard()
            raise ProfileError(f"the settings cannot be written: {error}") from None

    def put_in_place(self) -> None:
        """Make these the settings, durably."""
        try:
            private_files.rename(self._path + ".new", self._path)
        except OSError as error:
            self.discard()
            raise ProfileError(f"the settings cannot be written: {error}") from None

    def discard(self) -> None:
        """Remove the new file if it was not put in place."""
        with contextlib.suppress(OSError):
            private_files.remove(self._path + ".new")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock for changes of a profile; waits at most 10 s, then ``StoreUnavailable``."""
    lock = KernelLock(paths.settings_file(name) + ".lock")
    try:
        try:
            lock.acquire(_TIMEOUT)
        except OSError as error:
            if isinstance(error, SilentRefreshError):
                raise
            raise ProfileError(f"the settings cannot be locked: {error}") from None
        lock.sign()
        yield
    finally:
        lock.release()


def remove(name: str) -> None:
    """Remove the settings. Must be called with the profile's lock held. May raise ProfileError."""
    try:
        private_files.remove(paths.settings_file(name))
    except OSError as error:
        raise ProfileError(f"the settings cannot be removed: {error}") from None
