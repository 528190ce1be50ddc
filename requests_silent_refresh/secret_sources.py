"""Sources of secrets that must not be written into the program.

A source is any callable without arguments that returns the secret as a ``str``. Those
here are the common ones. They hold a name, never the secret, so they and the objects that
hold them can be printed and pickled. They read the secret on each call, so a rotated secret
is used without a restart.
"""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable
from typing import Any

from . import arguments
from .errors import SilentRefreshError
from .redaction import is_ours, strip

# A secret is a line of text. The limit keeps a wrong path (a log, /dev/zero) from filling memory.
_SIZE_LIMIT = 64 * 1024


@dataclasses.dataclass(frozen=True)
class FromEnvironment:
    """Reads the secret from the environment variable ``name`` on each call.

    >>> secret = FromEnvironment("APP_CLIENT_SECRET")
    >>> grant = RefreshTokenGrant("https://auth.example.com/token", "app", client_secret=secret)
    >>> secret
    FromEnvironment(name='APP_CLIENT_SECRET')

    Whitespace around the value is removed. Calling it raises ``LookupError`` if the
    variable is not set or is empty. Thread-safe. The constructor raises ``TypeError`` or
    ``ValueError`` if no variable can have that name.
    """

    name: str

    def __post_init__(self) -> None:
        arguments.instances(str, "the name of an environment variable", name=self.name)
        if not arguments.is_text(self.name) or "=" in self.name or "\0" in self.name:
            raise ValueError("name must be the name of an environment variable")

    def __call__(self) -> str:
        value = os.environ.get(self.name, "").strip()
        if not value:
            raise LookupError(
                f"the environment variable {self.name} is not set: set it to the secret"
            )
        return value


@dataclasses.dataclass(frozen=True)
class FromFile:
    """Reads the secret from the text file ``path`` on each call.

    >>> secret = FromFile("/run/secrets/client-secret")
    >>> grant = RefreshTokenGrant("https://auth.example.com/token", "app", client_secret=secret)

    For secrets that a container platform mounts: links are followed, and the file's
    mode is not checked. ``~`` is expanded, and a relative path is made absolute at once.
    Whitespace around the value is removed.
    Calling it raises ``OSError`` if the file cannot be read, and ``ValueError`` if it
    is empty, over 64 KiB or not UTF-8 text. Thread-safe. The constructor raises ``TypeError``
    or ``ValueError`` if no file can have that path.
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", arguments.path("path", self.path))

    def __call__(self) -> str:
        path = self.path
        with open(path, "rb") as file:
            content = file.read(_SIZE_LIMIT + 1)
        if len(content) > _SIZE_LIMIT:
            raise ValueError(f"{path} is too large for a secret (over {_SIZE_LIMIT} bytes)")
        try:
            value = content.decode().strip()
        except UnicodeDecodeError:
            # From None, because the error holds the content.
            raise ValueError(f"{path} is not UTF-8 text") from None
        if not value:
            raise ValueError(f"{path} is empty: write the secret into it")
        return value


@dataclasses.dataclass(frozen=True)
class FromKeyring:
    """Reads the secret from the operating system's keyring on each call (extra ``keyring``).

    >>> secret = FromKeyring("nightly-report", "client-secret")
    >>> grant = RefreshTokenGrant("https://auth.example.com/token", "app", client_secret=secret)

    ``service`` and ``account`` are the names under which it was stored there. Calling it raises
    ``LookupError`` if the keyring has no such secret, ``ImportError`` without the extra, and what
    the keyring raises if it is locked. May block while the system asks a person to unlock it.
    Thread-safe. The constructor raises ``TypeError`` or ``ValueError`` for an invalid name.
    """

    service: str
    account: str

    def __post_init__(self) -> None:
        arguments.texts(service=self.service, account=self.account)

    def __call__(self) -> str:
        import keyring

        value = keyring.get_password(self.service, self.account)
        if not value:
            raise LookupError(
                f"the keyring has no secret for account {self.account!r} of service "
                f"{self.service!r}: store it there"
            )
        return value


def ask(
    source: Callable[[], Any],
    what: str,
    *,
    failed: type[SilentRefreshError],
    unavailable: type[SilentRefreshError],
    passing: type[Exception] = OSError,
) -> Any:
    """Call ``source`` and return its result; ``what`` names the secret in messages.

    Raises ``unavailable`` if it raises ``passing``, and ``failed`` if it raises any other
    exception or returns nothing. The message gives only the type of an exception that this
    package has not raised itself, because its text may hold the secret. Blocks for as long
    as ``source`` does.
    """
    try:
        answer = source()
        if answer:
            return answer
        kind, problem, cause = failed, "returned nothing", None
    except Exception as error:  # noqa: BLE001 (the application's code may raise anything)
        kind = unavailable if isinstance(error, passing) else failed
        problem = f"raised {type(error).__name__}"
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if is_ours(type(source)) and frame.f_globals["__name__"] == type(source).__module__:
            problem += f" ({error})"  # the sources' own messages hold no secret
        cause = strip(error)
        del frame
    raise kind(f"the callable given for {what} {problem}") from cause
