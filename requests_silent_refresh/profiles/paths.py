"""Paths of a profile's files: settings, tokens and key are in three different directories."""

from __future__ import annotations

import os

from ..system.paths import user_directory
from .names import to_file_name


def settings_directory() -> str:
    """Return the directory of all profiles' settings."""
    return os.path.join(user_directory("config"), "profiles")


def settings_file(name: str) -> str:
    """Return the file of a profile's settings."""
    return os.path.join(settings_directory(), to_file_name(name) + ".json")


def tokens_file(name: str, identity: str) -> str:
    """Return the file of a profile's tokens.

    ``identity`` stands for the server and the client. Each has its own file, so
    a process with older settings never loads tokens that do not belong to them.
    """
    return os.path.join(_state_directory(name), f"{identity}.tokens")


def is_default(path: str) -> bool:
    """Return whether ``path`` is in the default directory for profiles' tokens."""
    return path.startswith(_state_root() + os.sep)


def kept_file(name: str, what: str) -> str:
    """Return the encrypted file that keeps a secret of the profile."""
    return os.path.join(_state_directory(name), f"{what}.kept")


def key_file(name: str) -> str:
    """Return the profile's own key file, which is not stored with the files it encrypts."""
    return os.path.join(user_directory("data"), "keys", "profiles", to_file_name(name) + ".key")


def _state_directory(name: str) -> str:
    return os.path.join(_state_root(), to_file_name(name))


def _state_root() -> str:
    return os.path.join(user_directory("state"), "profiles")
