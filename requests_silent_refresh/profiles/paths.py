"""Where a profile's files are: settings, tokens and key, each in a directory of its own kind."""

from __future__ import annotations

import os

import platformdirs

from .names import to_file_name

_APPLICATION = "requests-silent-refresh"


def settings_directory() -> str:
    """Return the directory of all profiles' settings."""
    return os.path.join(platformdirs.user_config_dir(_APPLICATION, appauthor=False), "profiles")


def settings_file(name: str) -> str:
    """Return the file of a profile's settings."""
    return os.path.join(settings_directory(), to_file_name(name) + ".json")


def tokens_file(name: str, identity: str) -> str:
    """Return the file of a profile's tokens.

    Tokens of another server or client, ``identity``, are another session and go
    to another file. So whoever still has older settings never meets them.
    """
    return os.path.join(_state_directory(name), f"{identity}.tokens")


def is_usual(path: str) -> bool:
    """Say whether ``path`` is where a profile's tokens are unless somebody wants it otherwise."""
    return path.startswith(_state_root() + os.sep)


def kept_file(name: str, what: str) -> str:
    """Return the file in which a secret of the profile is kept, encrypted."""
    return os.path.join(_state_directory(name), f"{what}.kept")


def key_file(name: str) -> str:
    """Return the profile's own key file; it lies apart from what it encrypts."""
    data = platformdirs.user_data_dir(_APPLICATION, appauthor=False)
    return os.path.join(data, "keys", "profiles", to_file_name(name) + ".key")


def _state_directory(name: str) -> str:
    return os.path.join(_state_root(), to_file_name(name))


def _state_root() -> str:
    return os.path.join(platformdirs.user_state_dir(_APPLICATION, appauthor=False), "profiles")
