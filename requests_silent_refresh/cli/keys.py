"""``silent-refresh rotate-key``."""

from __future__ import annotations

from typing import Any

import click

from ..keys import KeyFile
from ..profiles import changes, load
from ..profiles.paths import key_file
from .app import uninterrupted
from .options import name_argument


@click.command("rotate-key")
@name_argument
def rotate_key(name: str) -> None:
    """Encrypt the tokens of the profile NAME with a new key. Running scripts go on.

    A profile with a key file of its own gets a new key in it; with any other
    key, put the new one in front of the old one first (--key NEW --key OLD). The
    old key stays readable until the next rotation, for whoever was about to
    save with it.
    """
    profile = load(name)
    store: Any = profile.open_store()
    if not hasattr(store, "rotate_key"):
        raise click.UsageError(f"{store!r} has no keys to rotate")
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
        click.echo(f"Nobody ever signed in to {name}: there is nothing to encrypt yet.")
    else:
        click.echo(f"The tokens of {name} are encrypted with the key {key_id} now.")


def _own_key_file(key: Any, name: str) -> str | None:
    if key is None:
        return key_file(name)
    return str(key["key_file"]) if isinstance(key, dict) and "key_file" in key else None
