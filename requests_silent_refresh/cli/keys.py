"""``silent-refresh rotate-key``."""

from __future__ import annotations

from typing import Any

import click

from ..keys import KeyFile
from ..profiles import changes, load
from ..profiles.paths import key_file
from .app import uninterrupted
from .options import name_argument
from .output import say


@click.command("rotate-key")
@name_argument
def rotate_key(name: str) -> None:
    """Encrypt the tokens of the profile NAME with a new key. Running scripts continue.

    If the profile uses a key file, a new key is added to it. With any other
    kind of key, first list the new key before the old one (--key NEW --key OLD).
    The old key can still decrypt until the next rotation, in case another
    process is just saving with it.
    """
    profile = load(name)
    store: Any = profile.open_store()  # every store that a profile can have rotates keys
    with uninterrupted():
        path = _own_key_file(profile.key, name)
        if path is not None:
            keys = KeyFile(path, make=True)
            keys.add_key()
        key_id = store.rotate_key()
        changes.rotate_kept(profile)
        if path is not None:
            keys.retire_keys(keep=2)
    if key_id is None:
        say(f"Nobody has signed in to {name} yet: there is nothing to encrypt.")
    else:
        say(f"The tokens of {name} are now encrypted with the key {key_id}.")


def _own_key_file(key: Any, name: str) -> str | None:
    if key is None:
        return key_file(name)
    return str(key["key_file"]) if isinstance(key, dict) and "key_file" in key else None
