"""The directories of the current user."""

from __future__ import annotations

import os

from ..errors import StoreError

_APPLICATION = "requests-silent-refresh"


def user_directory(kind: str) -> str:
    """Return this user's directory for ``kind``: ``config``, ``data`` or ``state``.

    It need not exist. A relative ``XDG_..._HOME`` is ignored, as its specification asks. Raises
    ``StoreError`` if the home directory is not known.
    """
    import platformdirs

    try:
        found = str(getattr(platformdirs, f"user_{kind}_dir")(_APPLICATION, appauthor=False))
        if not os.path.isabs(found):  # older platformdirs take a relative variable
            default = {"config": ".config", "data": ".local/share", "state": ".local/state"}
            found = os.path.join(os.path.expanduser("~"), default[kind], _APPLICATION)
        if os.path.isabs(found):
            return found
    except RuntimeError:  # no home directory
        pass
    raise StoreError(
        f"the home directory of this user is not known, and with it the directory for its {kind}: "
        f"set HOME or XDG_{kind.upper()}_HOME to an absolute path"
    )
