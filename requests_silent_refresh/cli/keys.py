"""``silent-refresh rotate-key``."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from ..keys import KeyFile
from ..profiles import changes, load
from ..profiles.paths import key_file
from .app import uninterrupted
from .options import key_option, name_argument
from .output import say
from .settings_from import place_from


@click.command("rotate-key")
@name_argument
@key_option
def rotate_key(name: str, **given: Any) -> None:
    """Encrypt the tokens of the profile NAME with a new key. Running scripts continue.

    If the profile uses a key file, a new key is added to it; if it has several keys,
    the first encrypts from now on. Otherwise name the new key: --key NEW. The key
    before can still decrypt; to remove it, sign in with --key NEW alone. Keys that
    other profiles or hosts may use are never removed. Scripts that run have to be
    restarted after --key; for several hosts see docs/fleet.rst.
    """
    profile = load(name)
    file = _key_file(profile.key, name)
    if not given["keys"] and file is None and not isinstance(profile.key, list):
        raise click.UsageError("--key is missing: name the new key, which encrypts from now on")
    with uninterrupted():
        if given["keys"]:
            new = changes.keys_of(place_from({**given, "store": None, "store_name": None}, profile))
            before = [key for key in changes.keys_of(profile) if key not in new]
            profile = dataclasses.replace(profile, key=[*new, *before])
            changes.check(profile)  # that what is stored can be read, and the new key be used
            profile.save()
        elif file is not None:
            file.add_key()
        store: Any = profile.open_store()  # every store that a profile can have rotates keys
        key_id = store.rotate_key()
        changes.rotate_kept(profile)
        if not given["keys"] and file is not None and profile.key is None:
            file.retire_keys(keep=2)  # the profile's own, which nobody else uses
    if key_id is None:
        say(f"Nobody has signed in to {name} yet: there is nothing to encrypt.")
    else:
        say(f"The tokens of {name} are now encrypted with the key {key_id}.")


def _key_file(key: Any, name: str) -> KeyFile | None:
    """Return the key file that the profile uses alone; ``None`` for other keys and several."""
    if key is None:
        return KeyFile(key_file(name), make=True)
    return (
        KeyFile(key["key_file"], make=True) if isinstance(key, dict) and "key_file" in key else None
    )
