"""A profile's settings as a file: JSON, readable and writable by hand, without secrets."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import SilentRefreshError
from ..system import private_files
from . import paths

FORMAT = "requests-silent-refresh profile"
VERSION = 1


class ProfileError(SilentRefreshError):
    """There is no such profile, or its settings cannot be used. Nothing was changed."""


def read(name: str) -> dict[str, Any] | None:
    """Return the settings of the profile ``name``; ``None`` where there is no such profile.

    Takes no lock: the file is only ever replaced whole. Raises
    :class:`ProfileError`, and ``ValueError`` for a name that is none.
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
        raise ProfileError(f"{path} holds no settings of a profile: mend it, or remove it")
    version = settings.pop("version", None)
    if version != VERSION:
        raise ProfileError(
            f"{path} is of version {version!r} and this release reads {VERSION}: upgrade it here"
        )
    return settings


class Draft:
    """Settings that are written beside the file and take its place when all else is done."""

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
        """Make these the settings, durably. The caller holds the profile's lock."""
        try:
            private_files.rename(self._path + ".new", self._path)
        except OSError as error:
            self.discard()
            raise ProfileError(f"the settings cannot be written: {error}") from None

    def discard(self) -> None:
        """Remove what was not put in place."""
        with contextlib.suppress(OSError):
            private_files.remove(self._path + ".new")


def remove(name: str) -> None:
    """Remove the settings. The caller holds the profile's lock."""
    try:
        private_files.remove(paths.settings_file(name))
    except OSError as error:
        raise ProfileError(f"the settings cannot be removed: {error}") from None
