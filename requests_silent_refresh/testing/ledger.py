"""The issued tokens, and the file that keeps them for a restarted server.

Tokens are looked up by their SHA-256, and only that is written to the file, so the
file does not reveal usable tokens. The plain value of a refresh token is kept in
memory, because a grace window may issue it again; a grace window therefore ends
with the server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


@dataclasses.dataclass(eq=False)
class Family:
    """The tokens that descend from one sign-in."""

    number: int
    scope: tuple[str, ...]
    revoked: bool = False


@dataclasses.dataclass(eq=False)
class AccessToken:
    """An issued access token."""

    serial: int
    family: Family
    expires_at: float
    revoked: bool = False
    rejections: int = 0


@dataclasses.dataclass(eq=False)
class RefreshToken:
    """An issued refresh token; ``access`` is the newest access token issued with it."""

    serial: int
    family: Family
    access: AccessToken
    value: str | None = dataclasses.field(default=None, repr=False)
    spent_at: float | None = None
    successor: RefreshToken | None = dataclasses.field(default=None, repr=False)


def digest(value: str) -> str:
    """Return the SHA-256 by which a token is looked up."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


class Ledger:
    """The issued tokens. Not thread-safe: ``TokenFamilies`` calls it with its lock held."""

    def __init__(self) -> None:
        self._refresh: dict[str, RefreshToken] = {}
        self._access: dict[str, AccessToken] = {}
        self._families = self._refreshes = 0
        self.accesses = 0
        """Serial number of the last access token issued."""
        self.revoked_through = 0
        """Access tokens up to this serial number are revoked."""

    def refresh_token(self, value: str | None) -> RefreshToken | None:
        """Return the refresh token with this value; ``None`` if none was issued."""
        return None if value is None else self._refresh.get(digest(value))

    def access_token(self, value: str) -> AccessToken | None:
        """Return the access token with this value; ``None`` if none was issued."""
        return self._access.get(digest(value))

    def new_family(self, scope: str) -> Family:
        """Start a family."""
        self._families += 1
        return Family(self._families, tuple(scope.split()))

    def issue_access(self, family: Family, expires_at: float) -> tuple[AccessToken, str]:
        """Issue an access token; return it and its value."""
        self.accesses += 1
        value = "at-" + secrets.token_urlsafe(32)
        access = self._access[digest(value)] = AccessToken(self.accesses, family, expires_at)
        return access, value

    def issue_refresh(self, family: Family, access: AccessToken) -> RefreshToken:
        """Issue a refresh token; its ``value`` is set."""
        self._refreshes += 1
        value = "rt-" + secrets.token_urlsafe(32)
        token = RefreshToken(self._refreshes, family, access, value)
        self._refresh[digest(value)] = token
        return token

    def is_revoked(self, access: AccessToken) -> bool:
        """Return whether ``access`` was revoked, alone or with others."""
        return access.revoked or access.family.revoked or access.serial <= self.revoked_through

    def write(self, path: Path) -> None:
        """Replace the file at ``path`` atomically: SIGKILL leaves the old or the new file."""
        temporary = path.with_name(path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(self._to_dict(), file)
        os.replace(temporary, path)

    def read(self, path: Path) -> None:
        """Load what :meth:`write` stored; does nothing if there is no file.

        Raises ``ValueError`` if the file is something else.
        """
        try:
            self._from_dict(json.loads(path.read_text(encoding="ascii")))
        except FileNotFoundError:
            return
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not an AuthorizationServer file: move it away") from error

    def _to_dict(self) -> dict[str, Any]:
        """Return families by number and tokens by digest, without the revoked families."""
        access = {k: a for k, a in self._access.items() if not a.family.revoked}
        refresh = {k: t for k, t in self._refresh.items() if not t.family.revoked}
        return {
            "serials": [self._families, self._refreshes, self.accesses],
            "revoked_through": self.revoked_through,
            "families": {a.family.number: a.family.scope for a in access.values()},
            "access": {
                k: [a.serial, a.family.number, a.expires_at, a.revoked, a.rejections]
                for k, a in access.items()
            },
            "refresh": {
                k: [t.serial, t.family.number, t.access.serial, t.spent_at]
                for k, t in refresh.items()
            },
        }

    def _from_dict(self, fields: dict[str, Any]) -> None:
        self._families, self._refreshes, self.accesses = fields["serials"]
        self.revoked_through = fields["revoked_through"]
        families = {int(n): Family(int(n), tuple(scope)) for n, scope in fields["families"].items()}
        by_serial: dict[int, AccessToken] = {}
        for key, (serial, number, expires_at, revoked, rejections) in fields["access"].items():
            access = AccessToken(serial, families[number], expires_at, revoked, rejections)
            self._access[key] = by_serial[serial] = access
        for key, (serial, number, access_serial, spent_at) in fields["refresh"].items():
            self._refresh[key] = RefreshToken(
                serial, families[number], by_serial[access_serial], spent_at=spent_at
            )
