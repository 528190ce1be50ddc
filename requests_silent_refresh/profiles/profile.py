"""``Profile``: a session that was signed in once and that any script can use by its name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import names, paths, references, settings
from .settings import ProfileError

if TYPE_CHECKING:
    import requests

    from ..adapter.adapter import SilentRefreshAdapter
    from ..manager.manager import TokenManager
    from ..stores.contract import TokenStore

# What a grant reaches its endpoint by; the sign-in goes the same way.
NETWORK = ("verify", "cert", "proxies")


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a script needs to know of a session: origins, grant and store. Immutable.

    Everything here can be written to a file of JSON, and none of it is a secret:
    a secret is named by where it is, ``{"environment": NAME}``, ``{"file":
    PATH}``, ``{"keyring": SERVICE, "account": ACCOUNT}``, or ``{"kept":
    "client_secret"}`` for one that was typed at a sign-in.

    ``origins``
        Who may see a token, as ``"https://api.example.com"``.
    ``grant``
        ``{"kind": "refresh_token" | "client_credentials" | "json", ...}`` with the
        arguments of the grant's class.
    ``store``
        ``{"kind": "file"}``, with ``"path"`` if not the usual one; or ``{"kind":
        "redis" | "sql", "url": ..., "name": ...}``. The URL may be a reference.
    ``key``
        ``None``: a key file of the profile's own. Or a reference to a key,
        ``{"key_file": PATH}``, ``{"passphrase": REFERENCE}``,
        ``{"keyring": SERVICE}``, or a list of them (the first encrypts).
    ``adapter``
        Arguments for the adapter: ``header``, ``scheme``, ``allow_insecure_http``.
    ``sign_in``
        How a person signs in: ``method``, ``issuer``, endpoints, ``scope``...
    ``signed_in``
        Who did last: ``subject`` and ``lineage``, for :func:`status`.

    Raises ``ValueError`` for a name that is none and for a secret that is written out.
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
        if isinstance(self.origins, str) or not all(isinstance(o, str) for o in self.origins):
            raise ValueError("origins is a list, such as ['https://api.example.com']")
        object.__setattr__(self, "origins", tuple(self.origins))
        for part in (self.grant, self.store, self.sign_in):
            references.refuse_literals(part)

    @cached_property
    def manager(self) -> TokenManager:
        """The manager of this profile's session, made at first use.

        Its ``SessionExpired`` names the command to sign in again. Raises
        :class:`ProfileError` where the settings cannot be meant.
        """
        from ..manager.manager import TokenManager

        return TokenManager(
            self.make_grant(),
            store=self.open_store(),
            sign_in_hint=f"run {self.sign_in_command}",
        )

    @cached_property
    def adapter(self) -> SilentRefreshAdapter:
        """The adapter for this profile's origins, made at first use. Raises as :attr:`manager`."""
        from ..adapter.adapter import SilentRefreshAdapter

        manager = self.manager
        with _blaming(self.name):
            return SilentRefreshAdapter(manager, self.origins, **self.adapter_options)

    def mount_on(self, session: requests.Session) -> None:
        """Have ``session`` send this profile's token to its origins. Raises as :attr:`manager`."""
        self.adapter.mount_on(session)

    @property
    def sign_in_command(self) -> str:
        """What a person types to sign in again."""
        return f"silent-refresh sign-in {_argument(self.name)}"

    @property
    def identity(self) -> str:
        """Eight characters for the server and the client: tokens of another are another session."""
        endpoint = self.grant.get("token_endpoint") or self.grant.get("url")
        parts = [self.grant.get("kind"), endpoint, self.grant.get("client_id")]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8]

    @property
    def place(self) -> str:
        """Where the session is kept, for people, and to tell whether two profiles share one."""
        kind = self.store.get("kind", "file")
        if kind == "file":
            return os.path.abspath(os.path.expanduser(str(self._file())))
        url = self.store.get("url")
        told = json.dumps(url) if isinstance(url, Mapping) else url
        return f"{kind} {told} {self._session_name()}"

    def make_grant(self) -> Any:
        """Return the grant. Raises :class:`ProfileError`."""
        from ..grants.json_refresh import JSONRefresh
        from ..grants.oauth import ClientCredentialsGrant, RefreshTokenGrant

        kinds = {
            "refresh_token": RefreshTokenGrant,
            "client_credentials": ClientCredentialsGrant,
            "json": JSONRefresh,
        }
        with _blaming(self.name):
            arguments = {k: references.resolve(v, self.name) for k, v in self.grant.items()}
            kind = arguments.pop("kind", None)
            if kind not in kinds:
                raise ValueError(f"grant: its kind is one of {', '.join(kinds)}, not {kind!r}")
            return kinds[kind](**arguments)

    def open_store(self) -> TokenStore:
        """Return the store; no file is touched yet. Raises :class:`ProfileError`."""
        arguments = dict(self.store)
        kind = arguments.pop("kind", "file")
        with _blaming(self.name):
            key = _key(self.key, self.name)
            if kind == "file":
                from ..keys import KeyFile
                from ..stores.file import EncryptedFileStore

                arguments.pop("path", None)
                _refuse_rest("store", arguments)
                key = KeyFile(paths.key_file(self.name), make=True) if key is None else key
                return EncryptedFileStore(self._file(), key)
            url = references.resolve(arguments.pop("url", None), self.name)
            name = arguments.pop("name", None) or self._session_name()
            _refuse_rest("store", arguments)
            return _engine(kind)(url, name, key=key)  # type: ignore[no-any-return]

    def save(self) -> None:
        """Write the settings, replacing those of the profile's name; the session is untouched.

        Raises :class:`ProfileError`.
        """
        draft = settings.Draft(self.name, self.to_settings())
        draft.put_in_place()

    def to_settings(self) -> dict[str, Any]:
        """Return the settings as JSON has them."""
        fields = dataclasses.asdict(self)
        fields["adapter"] = fields.pop("adapter_options")
        return {name: value for name, value in fields.items() if value not in (None, {}, ())}

    def _file(self) -> str:
        return str(self.store.get("path") or paths.tokens_file(self.name, self.identity))

    def _session_name(self) -> str:
        return str(self.store.get("name") or f"{names.to_file_name(self.name)}.{self.identity}")


def load(name: str) -> Profile:
    """Return the profile ``name``, which ``silent-refresh sign-in`` made.

    Reads its settings and nothing else; no lock, no network. Raises
    :class:`ProfileError` where there is none or its settings cannot be used,
    and ``ValueError`` for a name that is none.
    """
    name = names.normal(name)
    fields = settings.read(name)
    if fields is None:
        raise ProfileError(
            f"there is no profile {name!r}: make it with silent-refresh sign-in {_argument(name)} "
            "--issuer ... --client-id ... --origin ..."
        )
    known = {field.name for field in dataclasses.fields(Profile)} - {"adapter_options"}
    with _blaming(name):
        if "adapter" in fields:
            fields["adapter_options"] = fields.pop("adapter")
        _refuse_rest(
            "the settings",
            {k: v for k, v in fields.items() if k not in known and k != "adapter_options"},
        )
        profile = Profile(**fields)
    if profile.name != name:
        raise ProfileError(
            f"{paths.settings_file(name)} holds the settings of {profile.name!r}: it was copied, "
            "so change the name in it"
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


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turn a wrong argument into a :class:`ProfileError` that names the profile."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise ProfileError(f"the profile {name!r} cannot be used: {error}") from None


def _key(value: Any, profile: str) -> Any:
    """Return what a store takes as a key, for how settings write it."""
    from .. import keys

    if isinstance(value, list):
        return [_key(one, profile) for one in value]
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError("a key is not written into settings: name where it is")  # noqa: TRY004
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
    raise ValueError(f"store: its kind is file, redis or sql, not {kind!r}")


def _refuse_rest(what: str, rest: Mapping[str, Any]) -> None:
    if rest:
        raise ValueError(f"{what}: no such field as {', '.join(map(repr, rest))}")


def _argument(name: str) -> str:
    """Write a profile's name as one argument of a shell's command."""
    return ("-- " if name.startswith("-") else "") + shlex.quote(name)
