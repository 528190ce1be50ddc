"""Token families: issue, rotation, the grace window, reuse detection, revocation.

A *family* is what one sign-in grew into: each exchange under rotation spends a
refresh token and issues its successor. A refresh token that comes a second time
is either stolen or lost, and nobody can tell which, so the whole family is
revoked (RFC 6819 section 5.2.2.3, RFC 9700 section 4.14.2).

Tokens are found by their SHA-256; a plain value is kept only of a refresh token
that a grace window may have to hand out again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import threading
from collections.abc import Callable
from typing import Any, Protocol

from .events import EventLog


class Policy(Protocol):
    """How the server issues tokens; ``AuthorizationServer`` itself, whose attributes may change."""

    access_token_lifetime: float
    rotate: bool
    grace: float
    announce_lifetime: bool
    rotation_ends_access_token: bool
    clock: Callable[[], float]


@dataclasses.dataclass(eq=False)
class Family:
    """What one sign-in grew into."""

    number: int
    scope: tuple[str, ...]
    revoked: bool = False


@dataclasses.dataclass(eq=False)
class AccessToken:
    """An access token that was issued."""

    serial: int
    family: Family
    expires_at: float
    revoked: bool = False
    rejections: int = 0


@dataclasses.dataclass(eq=False)
class RefreshToken:
    """A refresh token that was issued; ``access`` is the newest access token that came with it."""

    serial: int
    family: Family
    access: AccessToken
    value: str | None = dataclasses.field(default=None, repr=False)
    spent_at: float | None = None
    successor: RefreshToken | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Arrival:
    """Where an exchange came from, for its event."""

    began: float
    path: str
    grant: str
    fault: str | None = None


class Refused(Exception):  # noqa: N818 (the endpoint's answer)
    """The exchange was refused; ``error`` is RFC 6749's code, ``reason`` what is behind it."""

    def __init__(self, error: str, reason: str | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.reason = reason


def digest(value: str) -> bytes:
    """Return what a token is found by."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


class TokenFamilies:
    """All tokens the server knows. Thread-safe: one lock, held for each step and its event.

    So the log tells the steps in the order in which they took effect.
    ``on_change`` is called, with the lock held, after each change and before
    anybody can see an answer: that is where a database is written.
    """

    def __init__(
        self, policy: Policy, log: EventLog, on_change: Callable[[TokenFamilies], None] | None
    ) -> None:
        self._policy = policy
        self._log = log
        self._on_change = on_change
        self._refresh: dict[bytes, RefreshToken] = {}
        self._access: dict[bytes, AccessToken] = {}
        self._families = self._refreshes = self._accesses = 0
        self._revoked_through = 0  # access tokens up to this serial are revoked
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()

    def sign_in(self, scope: str = "") -> dict[str, Any]:
        """Start a family and return the answer of RFC 6749 section 5.1."""
        with self._lock:
            family = self._new_family(tuple(scope.split()))
            access, access_value = self._issue_access(family)
            refresh = self._issue_refresh(family, access)
            self._log.append(
                "sign-in",
                family=family.number,
                issued_refresh=refresh.serial,
                issued_access=access.serial,
            )
            self._changed()
            return self._payload(family, access_value, refresh.value)

    def client_credentials(self, scope: str, arrival: Arrival) -> dict[str, Any]:
        """Issue an access token without a refresh token (RFC 6749 section 4.4)."""
        with self._lock:
            family = self._new_family(tuple(scope.split()))
            access, access_value = self._issue_access(family)
            self._note(arrival, "granted", family=family.number, issued_access=access.serial)
            self._changed()
            return self._payload(family, access_value, None)

    def exchange(self, value: str, scope: str | None, arrival: Arrival) -> dict[str, Any]:
        """Exchange a refresh token (RFC 6749 section 6) and return the answer.

        Raises :class:`Refused`; after a reuse the whole family is revoked.
        """
        with self._lock:
            token = self._refresh.get(digest(value))
            try:
                return self._exchange(token, scope, arrival)
            except Refused as refusal:
                self._note(arrival, "refused", token, error=refusal.error, reason=refusal.reason)
                raise

    def _exchange(
        self, token: RefreshToken | None, scope: str | None, arrival: Arrival
    ) -> dict[str, Any]:
        if token is None:
            raise Refused("invalid_grant", "unknown")
        family = token.family
        if family.revoked:
            raise Refused("invalid_grant", "revoked")
        if not set((scope or "").split()) <= set(family.scope):
            raise Refused("invalid_scope")
        in_grace = token.spent_at is not None
        if in_grace and not self._may_repeat(token):
            family.revoked = True
            self._changed()
            raise Refused("invalid_grant", "reuse")
        before = self._of_exchange(token)
        if self._policy.rotation_ends_access_token and self._policy.rotate:
            token.access.revoked = True
        access, access_value = self._issue_access(family)
        successor = self._successor(token, access)
        self._note(
            arrival,
            "granted",
            **before,
            issued_access=access.serial,
            issued_refresh=None if successor is token else successor.serial,
            grace=in_grace,
        )
        self._changed()
        return self._payload(
            family, access_value, None if successor is token else successor.value, scope
        )

    def _may_repeat(self, token: RefreshToken) -> bool:
        """Whether the spent ``token`` is the immediately preceding one, inside its grace."""
        successor = token.successor
        return (
            token.spent_at is not None
            and self._policy.clock() - token.spent_at < self._policy.grace
            and successor is not None
            and successor.spent_at is None
            and successor.value is not None
        )

    def _successor(self, token: RefreshToken, access: AccessToken) -> RefreshToken:
        """Return the refresh token to hand out for ``token``, spending it under rotation."""
        successor = token.successor
        if successor is None:
            if not self._policy.rotate:
                token.access = access
                return token
            token.spent_at = self._policy.clock()
            successor = token.successor = self._issue_refresh(token.family, access)
        successor.access = access
        token.value = None
        return successor

    def refuse(self, error: str, presented: str | None, arrival: Arrival) -> None:
        """Record an exchange that got no further than ``error``."""
        with self._lock:
            self._note(arrival, "refused", self._find(presented), error=error)

    def fault(self, status: int | None, presented: str | None, arrival: Arrival) -> None:
        """Record an exchange that a fault kept from being processed."""
        with self._lock:
            self._note(arrival, "faulted", self._find(presented), status=status)

    def check(self, value: str | None) -> tuple[AccessToken | None, str | None]:
        """Return the access token and why it is rejected; ``None`` where it is good."""
        if value is None:
            return None, "missing"
        with self._lock:
            access = self._access.get(digest(value))
            if access is None:
                return None, "unknown"
            if self._is_revoked(access):
                return access, "revoked"
            return access, "expired" if self._left(access) <= 0 else None

    def note_resource(
        self, access: AccessToken | None, *, status: int | None, **fields: Any
    ) -> None:
        """Record the answer of a resource, and the rejection where it is a 401."""
        with self._lock:
            if access is not None and status == 401:
                access.rejections += 1
            self._log.append(
                "resource",
                status=status,
                access=None if access is None else access.serial,
                family=None if access is None else access.family.number,
                **fields,
            )

    def revoke(self, value: str, began: float, path: str) -> None:
        """Revoke one token (RFC 7009 section 2.1): a refresh token takes its family along."""
        with self._lock:
            refresh, access = self._refresh.get(digest(value)), self._access.get(digest(value))
            if refresh is not None:
                refresh.family.revoked = True
            if access is not None:
                access.revoked = True
            found = refresh or access
            self._log.append(
                "revocation",
                began=began,
                path=path,
                status=200,
                family=None if found is None else found.family.number,
                refresh=None if refresh is None else refresh.serial,
                access=None if access is None else access.serial,
                reason="unknown" if found is None else None,
            )
            self._changed()

    def now(self) -> float:
        """Return the time by the server's clock."""
        return self._policy.clock()

    def revoke_access_tokens(self) -> None:
        """Reject every access token issued so far, though it has not expired."""
        with self._lock:
            self._revoked_through = self._accesses
            self._log.append("early-revocation", access=self._accesses)
            self._changed()

    # Each of the following is called with the lock held.

    def _is_revoked(self, access: AccessToken) -> bool:
        return access.revoked or access.family.revoked or access.serial <= self._revoked_through

    def _left(self, access: AccessToken) -> float:
        return access.expires_at - self._policy.clock()

    def _find(self, value: str | None) -> RefreshToken | None:
        return None if value is None else self._refresh.get(digest(value))

    def _of_exchange(self, token: RefreshToken) -> dict[str, Any]:
        return {
            "family": token.family.number,
            "refresh": token.serial,
            "access": token.access.serial,
            "access_rejections": token.access.rejections,
            "access_left": self._left(token.access),
        }

    def _note(
        self, arrival: Arrival, outcome: str, token: RefreshToken | None = None, **fields: Any
    ) -> None:
        if token is not None:
            fields = self._of_exchange(token) | fields
        self._log.append(
            "exchange",
            began=arrival.began,
            path=arrival.path,
            grant=arrival.grant,
            fault=arrival.fault,
            outcome=outcome,
            **fields,
        )

    def _new_family(self, scope: tuple[str, ...]) -> Family:
        self._families += 1
        return Family(self._families, scope)

    def _issue_access(self, family: Family) -> tuple[AccessToken, str]:
        self._accesses += 1
        value = "at-" + secrets.token_urlsafe(32)
        expires_at = self._policy.clock() + self._policy.access_token_lifetime
        access = self._access[digest(value)] = AccessToken(self._accesses, family, expires_at)
        return access, value

    def _issue_refresh(self, family: Family, access: AccessToken) -> RefreshToken:
        self._refreshes += 1
        value = "rt-" + secrets.token_urlsafe(32)
        token = RefreshToken(self._refreshes, family, access, value)
        self._refresh[digest(value)] = token
        return token

    def _payload(
        self, family: Family, access: str, refresh: str | None, scope: str | None = None
    ) -> dict[str, Any]:
        payload: dict[str, Any] = {"access_token": access, "token_type": "Bearer"}
        if self._policy.announce_lifetime:
            lifetime = self._policy.access_token_lifetime
            payload["expires_in"] = int(lifetime) if lifetime == int(lifetime) else lifetime
        if refresh is not None:
            payload["refresh_token"] = refresh
        if family.scope:
            payload["scope"] = scope or " ".join(family.scope)
        return payload

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self)
