"""``Profile``: a session that any script can use by its name after one sign-in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import arguments
from . import names, paths, references, settings
from .settings import ProfileError

if TYPE_CHECKING:
    import requests

    from ..adapter.adapter import SilentRefreshAdapter
    from ..manager.manager import TokenManager
    from ..stores.contract import TokenStore

#: A grant's connection settings. The sign-in and the other commands use the same ones.
NETWORK = ("verify", "cert", "proxies", "allow_insecure_http")


@dataclasses.dataclass(frozen=True)
class Profile:
    """The settings of a session: origins, grant and store. Immutable.

    >>> from requests_silent_refresh import profiles
    >>> grant = {"kind": "json", "url": "https://shop.example.com/auth/refresh"}
    >>> profiles.Profile("shop", ["https://shop.example.com"], grant).save()
    >>> profiles.load("shop").mount_on(requests.Session())

    All fields can be written as JSON, and none contains a secret. A secret is
    given by a reference: ``{"environment": NAME}``, ``{"file": PATH}``,
    ``{"keyring": SERVICE, "account": ACCOUNT}``, or ``{"kept": "client_secret-..."}``
    for one that was typed at a sign-in.

    ``origins``
        Servers that may receive the token, e.g. ``"https://api.example.com"``.
    ``grant``
        ``{"kind": "refresh_token" | "client_credentials" | "json" | "json_login", ...}`` with the
        arguments of the grant's class.
    ``store``
        ``{"kind": "file"}``, with a ``"path"`` to override the default, and
        ``"shared_with_group"``; or
        ``{"kind": "redis" | "sql", "url": ..., "name": ...}``. The URL may be a reference.
    ``key``
        ``None`` for the profile's own key file; ``{"key_file": PATH}``,
        ``{"passphrase": REFERENCE}``, ``{"keyring": SERVICE}``, a reference to a
        key, or a list of them (the first encrypts).
    ``adapter_options``
        Arguments of the adapter: ``header``, ``scheme``, ``allow_insecure_http``. In the
        settings file this is called ``adapter``.
    ``sign_in``
        How a person signs in: ``method``, ``issuer``, endpoints, ``scope``...
    ``signed_in``
        The last sign-in, ``subject`` and ``lineage``; shown by ``silent-refresh status``.

    Raises ``ValueError`` if the name is invalid or a field contains a literal secret, and
    ``TypeError`` for a field of a wrong kind or that cannot be written as JSON.
    """

    name: str
    origins: tuple[str, ...]
    grant: Mapping[str, Any]
    store: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "file"})
    key: Any = None
    adapter_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sign_in: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    signed_in: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", names.normal(self.name))
        arguments.instances(Iterable, "a list of str", origins=self.origins)
        origins = tuple(self.origins)
        if isinstance(self.origins, str) or not all(isinstance(o, str) for o in origins):
            raise ValueError("origins must be a list, for example ['https://api.example.com']")
        object.__setattr__(self, "origins", origins)
        for part in ("grant", "store", "adapter_options", "sign_in", "signed_in"):
            checked = arguments.mapping(part, getattr(self, part))
            if part == "store" and "path" in checked:
                checked["path"] = arguments.path("path", checked["path"])
            object.__setattr__(self, part, references.with_absolute_paths(checked))
        object.__setattr__(self, "key", references.with_absolute_paths(self.key))
        for fields in (self.grant, self.store, self.sign_in):
            references.refuse_literals(fields)
        arguments.json_values(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @cached_property
    def manager(self) -> TokenManager:
        """The manager of this profile's session, created at first use.

        Its ``SessionExpired`` names the command to sign in again. Raises
        :class:`ProfileError` if the settings are invalid.
        """
        from ..manager.manager import TokenManager

        return TokenManager(
            self.make_grant(),
            store=self.open_store(),
            sign_in_hint=f"run {self.sign_in_command}",
        )

    @cached_property
    def adapter(self) -> SilentRefreshAdapter:
        """The adapter for the origins, created at first use. Raises like :attr:`manager`."""
        from ..adapter.adapter import SilentRefreshAdapter

        manager = self.manager
        with _as_profile_error(self.name):
            return SilentRefreshAdapter(manager, self.origins, **self.adapter_options)

    def mount_on(self, session: requests.Session) -> None:
        """Make ``session`` send the token to the origins. Raises like :attr:`manager`."""
        self.adapter.mount_on(session)

    @property
    def sign_in_command(self) -> str:
        """The command that signs in again."""
        return f"silent-refresh sign-in {_argument(self.name)}"

    @property
    def identity(self) -> str:
        """Eight characters that identify server and client; a change of either is a new session."""
        endpoint = self.grant.get("token_endpoint") or self.grant.get("url")
        parts = [self.grant.get("kind"), endpoint, self.grant.get("client_id")]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8]

    @property
    def place(self) -> str:
        """Where the session is stored: for people, and to see if two profiles share a session."""
        kind = self.store.get("kind", "file")
        if kind == "file":
            return self._file()
        url = self.store.get("url")
        shown = json.dumps(url) if isinstance(url, Mapping) else url
        return f"{kind} {shown} {self._session_name()}"

    def make_grant(self) -> Any:
        """Return the grant. Raises :class:`ProfileError` if its settings are invalid."""
        from ..grants.json_login import JSONLogin
        from ..grants.json_refresh import JSONRefresh
        from ..grants.oauth import ClientCredentialsGrant, RefreshTokenGrant

        kinds = {
            "refresh_token": RefreshTokenGrant,
            "client_credentials": ClientCredentialsGrant,
            "json": JSONRefresh,
            "json_login": JSONLogin,
        }
        with _as_profile_error(self.name):
            key = _key(self.key, self.name)
            arguments = {k: references.resolve(v, self.name, key) for k, v in self.grant.items()}
            kind = arguments.pop("kind", None)
            if kind not in kinds:
                raise ValueError(f"grant: kind must be one of {', '.join(kinds)}, not {kind!r}")
            return kinds[kind](**arguments)

    def make_key(self) -> Any:
        """Return the ``key`` argument of the store; ``None`` for the profile's own key file.

        Raises :class:`ProfileError` as for the grant.
        """
        with _as_profile_error(self.name):
            return _key(self.key, self.name)

    def open_store(self) -> TokenStore:
        """Return the store; no file is opened. Raises :class:`ProfileError` as for the grant."""
        arguments = dict(self.store)
        kind = arguments.pop("kind", "file")
        key = self.make_key()
        with _as_profile_error(self.name):
            if kind == "file":
                from ..keys import KeyFile
                from ..stores.file import EncryptedFileStore

                arguments.pop("path", None)
                shared = arguments.pop("shared_with_group", False)
                _refuse_unknown("store", arguments)
                key = KeyFile(paths.key_file(self.name), make=True) if key is None else key
                return EncryptedFileStore(self._file(), key, shared_with_group=shared)
            url = references.resolve(arguments.pop("url", None), self.name)
            name = arguments.pop("name", None) or self._session_name()
            _refuse_unknown("store", arguments)
            return _engine(kind)(url, name, key=key)  # type: ignore[no-any-return]

    def save(self) -> None:
        """Write the settings, replacing any of the same name; the session is not changed.

        Waits at most 10 s for another process that changes the profile. Raises
        :class:`ProfileError` if they cannot be written.
        """
        with settings.locked(self.name):
            settings.Draft(self.name, self.to_settings()).put_in_place()

    def to_settings(self) -> dict[str, Any]:
        """Return the settings as they are written to JSON."""
        fields = dataclasses.asdict(self)
        fields["adapter"] = fields.pop("adapter_options")
        return {name: value for name, value in fields.items() if value not in (None, {}, ())}

    def _file(self) -> str:
        return str(self.store.get("path") or paths.tokens_file(self.name, self.identity))

    def _session_name(self) -> str:
        return str(self.store.get("name") or f"{names.to_file_name(self.name)}.{self.identity}")


def load(name: str) -> Profile:
    """Return the profile ``name``, which ``silent-refresh sign-in`` created.

    Reads only the settings, and uses neither a lock nor the network. Raises
    :class:`ProfileError` if there is no such profile or its settings cannot be
    used, and ``ValueError`` if the name is invalid.
    """
    name = names.normal(name)
    fields = settings.read(name)
    if fields is None:
        raise ProfileError(
            f"there is no profile {name!r}: create it with silent-refresh sign-in "
            f"{_argument(name)} --issuer ... --client-id ... --origin ..."
        )
    known = {field.name for field in dataclasses.fields(Profile)}
    with _as_profile_error(name):
        if "adapter" in fields:
            fields["adapter_options"] = fields.pop("adapter")
        _refuse_unknown("the settings", [field for field in fields if field not in known])
        profile = Profile(**fields)
    if profile.name != name:
        raise ProfileError(
            f"{paths.settings_file(name)} contains the settings of {profile.name!r}: if it was "
            "copied, change the name in it"
        )
    return profile


def listed() -> list[str]:
    """Return the names of this user's profiles, sorted."""
    try:
        found = os.listdir(paths.settings_directory())
    except FileNotFoundError:
        return []
    stems = [file.removesuffix(".json") for file in found if file.endswith(".json")]
    return sorted(name for name in map(names.from_file_name, stems) if name is not None)


def network_options(grant: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connection settings of a profile's grant; raises ``ValueError`` for wrong ones."""
    from ..grants.token_endpoint import checked_network

    options = {name: grant[name] for name in NETWORK if name in grant}
    try:
        checked_network(*(options.get(name) for name in NETWORK[:3]))
    except TypeError as error:
        raise ValueError(f"grant: {error}") from None
    return options


@contextlib.contextmanager
def _as_profile_error(name: str) -> Iterator[None]:
    """Turn an invalid argument into a :class:`ProfileError` that names the profile."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise ProfileError(f"the profile {name!r} cannot be used: {error}") from None


def _key(value: Any, profile: str) -> Any:
    """Return the ``key`` argument of a store for the ``key`` of the settings."""
    from .. import keys

    if isinstance(value, list):
        return [_key(one, profile) for one in value]
    if value is None:
        return None
    if not isinstance(value, Mapping):
        message = "a key must not be stored in settings: refer to it, e.g. by {'key_file': PATH}"
        raise ValueError(message)  # noqa: TRY004
    if "key_file" in value:
        return keys.KeyFile(value["key_file"], make=bool(value.get("make")))
    if "passphrase" in value:
        return keys.Passphrase(references.resolve(value["passphrase"], profile))
    if "keyring" in value:
        return keys.KeyringKey(value["keyring"], value.get("account", f"key of {profile}"))
    return references.resolve(value, profile)


def _engine(kind: str) -> Any:
    if kind == "redis":
        from ..stores.redis import RedisStore

        return RedisStore
    if kind == "sql":
        from ..stores.sql import SQLStore

        return SQLStore
    raise ValueError(f"store: kind must be file, redis or sql, not {kind!r}")


def _refuse_unknown(what: str, rest: Collection[str]) -> None:
    if rest:
        raise ValueError(f"{what}: unknown field {', '.join(map(repr, rest))}")


def _argument(name: str) -> str:
    """Quote a profile's name as one argument of a shell command."""
    return ("-- " if name.startswith("-") else "") + shlex.quote(name)
