"""``Token``: an immutable token response (RFC 6749 section 5.1)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import arguments
from .places import TOKEN, usable
from .reading import Reader
from .redaction import Confidential, MaskedDict, Secret
from .times import number

logger = logging.getLogger("requests_silent_refresh")

# A placeholder for a missing access token. It is already expired, so it is never sent.
_NO_ACCESS_TOKEN = "none-yet"  # noqa: S105 (not a secret)

_ANY_NAMES = Reader()


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class Token(Confidential):
    """An access token, the refresh token that renews it, and its expiry.

    >>> token = Token("access", "refresh", expires_at=1800000000, scope="read write")
    >>> token.scope, token.access_token
    (('read', 'write'), ***)
    >>> token.access_token.reveal()
    'access'

    Immutable and thread-safe. Tokens are compared by identity. The constructor takes
    tokens as ``str`` and keeps them as :class:`~requests_silent_refresh.redaction.Secret`.

    ``expires_at``, ``issued_at``
        Unix time in seconds by this machine's clock, or ``None`` if unknown. A token
        without a known expiry is used until it is rejected.
    ``refresh_token``
        ``None`` for grants that need none (client credentials).
    ``scope``
        The granted scopes as a tuple. The constructor also takes RFC 6749's
        space-separated string.
    ``extra``
        All other fields of the response (an ``id_token``, a tenant). They are stored
        with the token and masked in its repr, because they may hold secrets.

    Raises ``ValueError`` if a token is empty or not safe in a header, or if a time is
    not a finite number, and ``TypeError`` for another argument of a wrong kind.
    """

    access_token: Secret
    refresh_token: Secret | None
    expires_at: float | None
    issued_at: float | None
    token_type: str
    scope: tuple[str, ...]
    extra: Mapping[str, Any]

    def __init__(
        self,
        access_token: str | Secret,
        refresh_token: str | Secret | None = None,
        expires_at: float | None = None,
        issued_at: float | None = None,
        token_type: str = "Bearer",  # noqa: S107 (a type, not a secret)
        scope: str | Iterable[str] = (),
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        access_token, refresh_token = _hidden(access_token), _hidden(refresh_token)
        extra = MaskedDict(extra) if isinstance(extra, Mapping) else arguments.kind_of(extra)
        if not isinstance(extra, MaskedDict):
            raise TypeError(f"extra must be a mapping, not {extra}")
        put = object.__setattr__
        put(self, "access_token", _checked("access_token", access_token))
        if refresh_token is not None:
            _checked("refresh_token", refresh_token)
        put(self, "refresh_token", refresh_token)
        put(self, "expires_at", _unix_time("expires_at", expires_at))
        put(self, "issued_at", _unix_time("issued_at", issued_at))
        # A refresh callable may pass on an answer without these: its token must not be lost.
        token_type, scope = token_type or "Bearer", () if scope is None else scope
        arguments.instances(str, "a str", token_type=token_type)
        put(self, "token_type", token_type)
        put(self, "scope", arguments.words("scope", scope))
        put(self, "extra", MappingProxyType(extra))

    def __repr__(self) -> str:
        if not hasattr(self, "extra"):  # in the traceback of a constructor that raised
            return "Token(incomplete)"
        refresh = "None" if self.refresh_token is None else "***"
        return (
            f"Token(access_token=***, refresh_token={refresh}, expires_at={self.expires_at}, "
            f"scope={self.scope!r}, fingerprint={self.access_token.fingerprint})"
        )

    def twin(self, **changes: Any) -> Token:
        """Return another object with the same content, or with some of it changed."""
        # Not dataclasses.replace: a user's subclass may be constructed in another way.
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), **changes)
        return twin

    @classmethod
    def from_response(
        cls,
        payload: Mapping[str, Any] | Sequence[Any],
        received_at: float | None = None,
        previous: Token | None = None,
        *,
        reader: Reader = _ANY_NAMES,
        **answer: Any,
    ) -> Token:
        """Read a token response (RFC 6749 section 5.1), or what another program saved.

        The usual names are recognised in any spelling (``accessToken``), at the top and in
        nested objects, and the lifetime in the usual forms. ``reader`` knows other places.

        ``received_at`` is the Unix time at which the response arrived. The lifetime is
        counted from it, so the server's clock does not matter. ``None`` means just now if
        there is a ``previous`` token, and otherwise that another program saved the payload:
        the token file or dictionary of another library or tool, or just a ``refresh_token``.
        Then a point in time takes precedence over a lifetime, because it is not known when
        that began to count. Without an access token, the token counts as expired, so it
        is exchanged before its first use and its placeholder is never sent.

        ``previous`` is the token that was exchanged. Its ``refresh_token``, ``scope`` and
        ``extra`` are kept as far as the response has none (section 6). ``answer`` has further
        keywords of :meth:`~.reading.Reader.read`.

        Of the response to an exchange nothing is lost, because the old refresh token may be
        spent: a number is read as the token's text, and any other field that cannot be used,
        even the refresh token, is ignored. Raises ``ValueError`` if there is no usable access
        token, or, without ``previous``, if the refresh token is not usable as it is.
        """
        # First, before anything can raise, because a traceback may show these locals.
        payload = MaskedDict(payload if isinstance(payload, Mapping) else {"items": [*payload]})
        kept = received_at is None and previous is None
        now = time.time() if received_at is None else received_at
        found = reader.read(payload, now, kept=kept, exchanged=previous is not None, **answer)
        if found.missed:
            logger.warning("the response has nothing at %s: a usual name was read", found.missed)
        access, refresh = found.access_token, found.refresh_token
        expires_at = found.expires_at
        if (
            kept
            and refresh
            and (not access or (isinstance(access, Secret) and not access.reveal()))
        ):
            access, expires_at = Secret(_NO_ACCESS_TOKEN), 0.0
        elif found.problem:
            nor = " and no refresh_token" if kept else ""
            raise ValueError(f"the response has no access_token{nor}: {found.problem}")
        _checked("access_token", access)
        extra = found.extra
        if previous is not None:
            if not usable(refresh):
                refresh = access if _is_sliding(previous) else previous.refresh_token
            extra = MaskedDict(previous.extra, **extra)
        if refresh is not None:
            _checked("refresh_token", refresh)
        return cls(
            access,
            refresh,
            expires_at=expires_at,
            issued_at=found.issued_at,
            token_type=found.token_type,
            scope=found.scope or (() if previous is None else previous.scope),
            extra=extra,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the token in plain text, secrets included, for a store to encrypt."""
        return {
            "access_token": self.access_token.reveal(),
            "refresh_token": None if self.refresh_token is None else self.refresh_token.reveal(),
            "expires_at": self.expires_at,
            "issued_at": self.issued_at,
            "token_type": self.token_type,
            "scope": list(self.scope),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Token:
        """Undo :meth:`to_dict`. Raises ``ValueError`` or ``TypeError`` for anything else."""
        fields = MaskedDict(fields)
        return cls(**fields)


def _is_sliding(token: Token) -> bool:
    """Return whether the access token is also what is exchanged, as with sliding JWTs."""
    refresh = token.refresh_token
    return refresh is not None and refresh.reveal() == token.access_token.reveal()


def _is_given(token: Any) -> bool:
    return token is not None and (not isinstance(token, Secret) or bool(token.reveal()))


def _hidden(value: object) -> Any:
    """Wrap a string in a ``Secret``, which no repr shows; replace other values by their type."""
    if value is None or isinstance(value, Secret):
        return value
    return Secret(value) if isinstance(value, str) else type(value)


def _checked(name: str, hidden: Any) -> Secret:
    if not isinstance(hidden, Secret):
        # Not a TypeError, because it may be the server's response that is wrong.
        raise ValueError(f"{name} must be a str, not {getattr(hidden, '__name__', None)}")  # noqa: TRY004
    if not TOKEN.fullmatch(hidden.reveal()):
        raise ValueError(
            f"{name} must be printable ASCII without spaces or line breaks, and not empty: "
            "if it was read from a file, remove the newline with value.strip()"
        )
    return hidden


def _unix_time(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    found = number(value) if not isinstance(value, str) else None
    if found is None or abs(found) >= 1e15:
        raise ValueError(f"{name} must be a Unix time in seconds (a finite number) or None")
    return found
