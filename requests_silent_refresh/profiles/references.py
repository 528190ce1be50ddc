"""References to secrets: settings never contain a secret, only where to find it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .. import arguments
from ..errors import StoreCorrupted, WrongKey
from ..secret_sources import FromEnvironment, FromFile, FromKeyring
from ..system import private_files
from . import paths

KINDS = ("environment", "file", "keyring", "kept")


@dataclasses.dataclass(frozen=True)
class Kept:
    """Reads a secret that was typed once and is kept encrypted, like the profile's tokens.

    A call raises ``LookupError`` if none is kept, and ``StoreError`` if it
    cannot be read. ``ValueError`` is raised if ``what`` is not a plain name.
    """

    profile: str
    what: str
    key: Any = None
    """The ``key`` of the profile's store; ``None`` for the profile's own key file."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_-]{1,60}", self.what):
            raise ValueError(
                f"{self.what!r} cannot name a kept secret: use lower-case letters, digits, - and _"
            )

    def __call__(self) -> str:
        state = self._store().load()
        secret = None if state is None or state.token is None else state.token.extra.get("secret")
        if not secret:
            raise LookupError(
                f"the secret of the profile {self.profile!r} is no longer kept: sign in with "
                "--client-secret ask"
            )
        return str(secret)

    def keep(self, secret: str) -> None:
        """Keep ``secret`` from now on. Raises ``StoreError`` if it cannot be saved."""
        from ..token import Token

        # A store saves only tokens, so the secret is an extra field of a dummy token.
        self._store().save(Token("none", extra={"secret": secret}), after=None)

    def forget(self) -> None:
        """Wipe the secret; its file goes if nobody can read it any more."""
        store = self._store()
        try:
            state = store.load()
        except (WrongKey, StoreCorrupted):
            private_files.remove(store.path)
            return
        if state is not None:
            store.clear(after=state)

    def rotate_key(self) -> None:
        """Encrypt the secret with the profile's newest key."""
        self._store().rotate_key()

    def _store(self) -> Any:
        from ..keys import KeyFile
        from ..stores.file import EncryptedFileStore

        # The own key file comes last: what an earlier version kept is encrypted with it.
        keys = [self.key] if self.key is not None and not isinstance(self.key, list) else self.key
        own = KeyFile(paths.key_file(self.profile), make=True)
        return EncryptedFileStore(paths.kept_file(self.profile, self.what), [*(keys or ()), own])


def is_reference(value: object) -> bool:
    """Return whether ``value`` is a reference to a secret."""
    return isinstance(value, Mapping) and any(kind in value for kind in KINDS)


def resolve(value: Any, profile: str, key: Any = None) -> Any:
    """Return the callable for a reference. References inside other mappings are resolved too.

    ``key`` is that of the profile's store, which encrypts what is kept.

    Raises ``ValueError`` if a reference has unknown fields.
    """
    if not isinstance(value, Mapping):
        return value
    if not is_reference(value):
        return {name: resolve(field, profile, key) for name, field in value.items()}
    fields = dict(value)
    source: Callable[[], str]
    if "environment" in fields:
        source = FromEnvironment(fields.pop("environment"))
    elif "file" in fields:
        source = FromFile(fields.pop("file"))
    elif "keyring" in fields:
        source = FromKeyring(fields.pop("keyring"), fields.pop("account", profile))
    else:
        source = Kept(profile, fields.pop("kept"), key)
    if fields:
        raise ValueError(f"a reference to a secret has unknown fields: {', '.join(fields)}")
    return source


def with_absolute_paths(value: Any) -> Any:
    """Return settings with each path made absolute, because scripts run in other directories.

    Raises ``TypeError`` or ``ValueError`` for a value that cannot be a path.
    """
    if isinstance(value, list):
        return [with_absolute_paths(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    kind = type(value) if isinstance(value, dict) else dict
    return kind(
        (
            name,
            arguments.path(name, field)
            if name in ("file", "key_file") and isinstance(field, str)
            else with_absolute_paths(field),
        )
        for name, field in value.items()
    )


def refuse_literals(settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a setting contains a secret; the message does not contain it."""
    for name, value in settings.items():
        hint = "refer to it by {'environment': NAME}, {'file': PATH} or {'keyring': SERVICE}"
        if name == "client_secret" and not (value is None or is_reference(value)):
            raise ValueError(f"client_secret must not be stored in settings: {hint}")
        if name in ("extra", "fields", "headers", "parameters") and isinstance(value, Mapping):
            from ..grants.sent import literal_secrets

            for where in literal_secrets(name, _without_references(value)):
                raise ValueError(f"{where} must not be stored in settings: {hint}")
        if name == "proxies" and isinstance(value, Mapping):
            for url in value.values():
                _refuse_password(name, url)
        if name.endswith(("url", "endpoint")):
            _refuse_password(name, value)


def _without_references(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _without_references(v) for k, v in value.items() if not is_reference(v)}


def _refuse_password(name: str, url: object) -> None:
    try:
        password = urlsplit(url).password if isinstance(url, str) else None
    except ValueError:
        return  # an invalid URL is reported when it is used
    if password:
        raise ValueError(
            f"the password in {name} must not be stored in settings: put the whole URL into an "
            "environment variable and refer to it by {'environment': NAME}"
        )
