"""Token families: issue, rotation, the grace window, reuse detection, revocation.

A *family* is the tokens that descend from one sign-in: with rotation, each exchange
spends a refresh token and issues its successor. A second use of a refresh token
means that it was stolen or that an answer was lost. The server cannot tell which,
so it revokes the whole family (RFC 6819 section 5.2.2.3, RFC 9700 section 4.14.2).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .events import EventLog
from .ledger import AccessToken, Family, Ledger, RefreshToken


class Settings(Protocol):
    """The settings of ``AuthorizationServer`` that may change while it runs, and its clock."""

    access_token_lifetime: float
    rotate: bool
    grace: float
    announce_lifetime: bool
    rotation_ends_access_token: bool
    latency: float
    clock: Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Arrival:
    """The fields of an exchange's event that describe its request."""

    began: float
    path: str
    grant: str
    fault: str | None = None


class Refused(Exception):  # noqa: N818 (the endpoint's answer)
    """The exchange was refused; ``error`` is RFC 6749's code, ``reason`` its cause."""

    def __init__(self, error: str, reason: str | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.reason = reason


class TokenFamilies:
    """All tokens of the server. Thread-safe: one lock is held for each step and its event.

    The log therefore shows the steps in the order in which they took effect. With a
    ``database`` each step is saved before its answer is sent. If the server is
    killed in between, it has rotated a token and the client does not know: a grace
    window covers this case.
    """

    def __init__(self, settings: Settings, log: EventLog, database: Path | None) -> None:
        self._settings = settings
        self._log = log
        self._database = database
        self._ledger = Ledger()
        if database is not None:
            self._ledger.read(database)
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time of the server's clock."""
        return self._settings.clock()

    def sign_in(self, scope: str, grant: str | None = None) -> dict[str, Any]:
        """Start a family and return RFC 6749 section 5.1's answer; ``grant`` is for the log."""
        with self._lock:
            family = self._ledger.new_family(scope)
            access, access_value = self._issue_access(family)
            refresh = self._ledger.issue_refresh(family, access)
            self._keep()
            self._log.append(
                "sign-in",
                grant=grant,
                family=family.number,
                issued_refresh=refresh.serial,
                issued_access=access.serial,
            )
            return self._payload(family, access_value, refresh.value)

    def client_credentials(self, scope: str, arrival: Arrival) -> dict[str, Any]:
        """Issue an access token without a refresh token (RFC 6749 section 4.4)."""
        with self._lock:
            family = self._ledger.new_family(scope)
            access, access_value = self._issue_access(family)
            self._keep()
            self._note(arrival, "granted", family=family.number, issued_access=access.serial)
            return self._payload(family, access_value, None)

    def exchange(self, value: str, scope: str | None, arrival: Arrival) -> dict[str, Any]:
        """Exchange a refresh token (RFC 6749 section 6) and return the answer.

        Raises :class:`Refused`; a reuse also revokes the whole family.
        """
        with self._lock:
            token = self._ledger.refresh_token(value)
            try:
                return self._exchange(token, scope, arrival)
            except Refused as refusal:
                self._note(arrival, "refused", token, error=refusal.error, reason=refusal.reason)
                raise

    def note(self, outcome: str, arrival: Arrival, presented: str | None, **fields: Any) -> None:
        """Record an exchange that was ``"refused"`` or ``"faulted"`` before its processing."""
        with self._lock:
            self._note(arrival, outcome, self._ledger.refresh_token(presented), **fields)

    def check(self, value: str | None) -> tuple[AccessToken | None, str | None]:
        """Return the access token and why it is rejected; the reason is ``None`` if it is valid."""
        if value is None:
            return None, "missing"
        with self._lock:
            access = self._ledger.access_token(value)
            if access is None:
                return None, "unknown"
            if self._ledger.is_revoked(access):
                return access, "revoked"
            return access, "expired" if self._left(access) <= 0 else None

    def note_resource(self, access: AccessToken | None, status: int | None, **fields: Any) -> None:
        """Record the answer of a resource; a 401 counts as a rejection of ``access``."""
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
        """Revoke a token (RFC 7009 section 2.1); a refresh token's family is revoked with it."""
        with self._lock:
            refresh = self._ledger.refresh_token(value)
            access = self._ledger.access_token(value)
            if refresh is not None:
                refresh.family.revoked = True
            if access is not None:
                access.revoked = True
            self._keep()
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

    def revoke_access_tokens(self) -> None:
        """Reject every access token issued so far, before it expires."""
        with self._lock:
            self._ledger.revoked_through = self._ledger.accesses
            self._keep()
            self._log.append("early-revocation", access=self._ledger.accesses)

    # The following methods must be called with the lock held.

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
            self._keep()
            raise Refused("invalid_grant", "reuse")
        before = self._before(token)
        if self._settings.rotation_ends_access_token:
            token.access.revoked = True
        access, access_value = self._issue_access(family)
        successor = self._successor(token, access)
        self._keep()
        rotated = successor is not token
        self._note(
            arrival,
            "granted",
            **before,
            issued_access=access.serial,
            issued_refresh=successor.serial if rotated else None,
            grace=in_grace,
        )
        return self._payload(family, access_value, successor.value if rotated else None, scope)

    def _may_repeat(self, token: RefreshToken) -> bool:
        """Return whether the spent ``token`` is the direct predecessor, within the grace window."""
        successor = token.successor
        return (
            token.spent_at is not None
            and self._settings.clock() - token.spent_at < self._settings.grace
            and successor is not None
            and successor.spent_at is None
        )

    def _successor(self, token: RefreshToken, access: AccessToken) -> RefreshToken:
        """Return the refresh token that follows ``token``, which rotation spends."""
        if token.successor is not None:  # within the grace window
            successor = token.successor
        elif self._settings.rotate:
            token.spent_at = self._settings.clock()
            successor = token.successor = self._ledger.issue_refresh(token.family, access)
            token.value = None
        else:
            successor = token
        successor.access = access
        return successor

    def _issue_access(self, family: Family) -> tuple[AccessToken, str]:
        lifetime = self._settings.access_token_lifetime
        return self._ledger.issue_access(family, self._settings.clock() + lifetime)

    def _left(self, access: AccessToken) -> float:
        return access.expires_at - self._settings.clock()

    def _before(self, token: RefreshToken) -> dict[str, Any]:
        """Return an event's fields for the presented refresh token and its access token."""
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
            fields |= self._before(token)
        if outcome == "granted":
            fields["status"] = 200
        elif outcome == "refused":
            json_refusal = arrival.grant == "json" and fields["error"] == "invalid_grant"
            fields["status"] = 401 if json_refusal or fields["error"] == "invalid_client" else 400
        self._log.append("exchange", outcome=outcome, **dataclasses.asdict(arrival), **fields)

    def _payload(
        self, family: Family, access: str, refresh: str | None, scope: str | None = None
    ) -> dict[str, Any]:
        payload: dict[str, Any] = {"access_token": access, "token_type": "Bearer"}
        if self._settings.announce_lifetime:
            lifetime = self._settings.access_token_lifetime
            payload["expires_in"] = int(lifetime) if lifetime == int(lifetime) else lifetime
        if refresh is not None:
            payload["refresh_token"] = refresh
        if family.scope:
            payload["scope"] = scope or " ".join(family.scope)
        return payload

    def _keep(self) -> None:
        if self._database is not None:
            self._ledger.write(self._database)
