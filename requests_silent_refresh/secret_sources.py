"""Where a secret comes from when it must not be written down in the program.

A source is any callable without arguments that returns the secret as a ``str``;
the two here are the common ones. They hold a name, never a value, so whatever
holds them can be printed and pickled. They are asked anew each time, so a
secret that was rotated is picked up without a restart.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from .errors import SilentRefreshError
from .redaction import strip

# A secret is a line of text. The bound keeps a wrong path (a log, /dev/zero) from filling memory.
_SIZE_LIMIT = 64 * 1024


@dataclasses.dataclass(frozen=True)
class FromEnvironment:
    """Reads the secret from the environment variable ``name`` each time it is asked.

    Blanks and line breaks around the value are not part of it. Calling it
    raises ``LookupError`` where the variable is not set or empty. Thread-safe.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "=" in self.name or "\0" in self.name:
            raise ValueError("FromEnvironment takes the name of an environment variable")

    def __call__(self) -> str:
        value = os.environ.get(self.name, "").strip()
        if not value:
            raise LookupError(
                f"the environment variable {self.name} is not set: it has to hold the secret"
            )
        return value


@dataclasses.dataclass(frozen=True)
class FromFile:
    """Reads the secret from the text file ``path`` each time it is asked.

    For secrets that a container platform mounts: links are followed and the
    mode is the platform's affair. ``~`` is expanded. Blanks and line breaks
    around the value are not part of it. Calling it raises ``OSError`` where the
    file cannot be read and ``ValueError`` where it is empty or no such file
    could be meant (over 64 KiB, not text). Thread-safe.
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not os.fspath(self.path):
            raise ValueError("FromFile takes the path of a text file")

    def __call__(self) -> str:
        path = os.path.expanduser(self.path)
        with open(path, "rb") as file:
            content = file.read(_SIZE_LIMIT + 1)
        if len(content) > _SIZE_LIMIT:
            raise ValueError(f"{path} holds more than a secret (over {_SIZE_LIMIT} bytes)")
        try:
            value = content.decode().strip()
        except UnicodeDecodeError:
            # From None: the error would carry the content.
            raise ValueError(f"{path} is not UTF-8 text") from None
        if not value:
            raise ValueError(f"{path} is empty: it has to hold the secret")
        return value


def ask(
    source: Callable[[], Any],
    what: str,
    *,
    failed: type[SilentRefreshError],
    unavailable: type[SilentRefreshError],
    passing: type[Exception] = OSError,
) -> Any:
    """Return what ``source`` returns now; ``what`` names it in messages.

    Raises ``unavailable`` if it raises ``passing``, and ``failed`` if it raises any other
    exception or returns nothing. Of a foreign exception only the type is told, because its
    text may hold the secret. Blocks for as long as ``source`` does.
    """
    try:
        answer = source()
        if answer:
            return answer
        kind, problem, cause = failed, "returned nothing", None
    except Exception as error:  # noqa: BLE001 (the application's code may raise anything)
        kind = unavailable if isinstance(error, passing) else failed
        problem, cause = f"raised {type(error).__name__}", strip(error)
        if isinstance(source, (FromEnvironment, FromFile)):  # these name no secret
            problem += f" ({error})"
    raise kind(f"the callable given for {what} {problem}") from cause
