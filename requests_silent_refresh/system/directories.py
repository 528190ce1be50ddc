"""Who may replace the files of a directory."""

from __future__ import annotations

import os
import stat

from .private_files import PRIVATE, SHARED, WINDOWS


def weakness(path: str, mode: int = PRIVATE) -> str | None:
    """Return who else may rename or remove the files of directory ``path``; ``None`` if nobody.

    They cannot read a private file, but can put an older one in its place. Looks at the
    directories above as well, as far as they exist. With ``mode`` ``SHARED`` the group may. A
    group with the number of its only user is taken for that user's own.
    """
    if WINDOWS:
        return None
    directory = os.path.realpath(path)
    while True:
        try:
            status = os.stat(directory)
        except OSError:
            status = None
        if status is not None and status.st_uid not in (0, os.geteuid()):
            return f"{directory} belongs to user id {status.st_uid}"
        if status is not None and not status.st_mode & stat.S_ISVTX:
            if status.st_mode & stat.S_IWOTH:
                return f"everybody can write to {directory}"
            is_group = status.st_mode & stat.S_IWGRP and status.st_gid != status.st_uid
            if is_group and mode != SHARED:
                return f"group id {status.st_gid} can write to {directory}"
        if os.path.dirname(directory) == directory:
            return None
        directory = os.path.dirname(directory)
