"""Warns if a store's file is on a network file system."""

from __future__ import annotations

import os
import re

from ..system.warnings_once import warn_once

_NETWORK = re.compile(r"nfs|cifs|smb|afs$|ceph|glusterfs|lustre|beegfs|fuse\.(sshfs|s3fs|gcsfuse)")

MOUNTS = "/proc/self/mountinfo"


def warn_of(path: str) -> None:
    """Warn if ``path`` is on a network file system, once per process and path.

    There, locks work between hosts only if server, mount options and network all
    support them, and two holders of the exclusive lock lose the session.
    """
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            kind = file_system(os.path.realpath(path), file.read())
    except OSError:  # not Linux
        return
    if kind is not None and _NETWORK.match(kind):
        warn_once(
            f"{path} is on a network file system ({kind}), whose locks may not work between "
            "hosts: to share it between hosts, use a RedisStore or a SQLStore",
            stacklevel=3,
        )


def file_system(path: str, mountinfo: str) -> str | None:
    """Return the file system type of ``path`` according to Linux's ``mountinfo``."""
    path = os.path.join(path, "")
    best, kind = "", None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        point = os.path.join(point, "")
        # Of two mounts on the same mount point, the later one is visible.
        if path.startswith(point) and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind
