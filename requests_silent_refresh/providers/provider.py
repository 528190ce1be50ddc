"""``Provider``: what is known about one authorization server, and the grant made from it."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from ..grants.oauth import ClientCredentialsGrant, RefreshTokenGrant

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MONTH = 30 * DAY
YEAR = 365 * DAY

ENDPOINTS = (
    *("authorization_endpoint", "token_endpoint", "device_authorization_endpoint"),
    "revocation_endpoint",
)


class Reply(NamedTuple):
    """The part of an HTTP answer by which it is recognised: a status and fields of its JSON."""

    status: int
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Provider:
    """What the documentation of one provider says about its tokens. Immutable.

    >>> from requests_silent_refresh import providers
    >>> providers.OKTA.grant("nightly-report", domain="example.okta.com")
    RefreshTokenGrant('https://example.okta.com/oauth2/default/v1/token', client_id=...)
    >>> providers.XERO.grace / 60
    30.0

    ``None`` means that no page was found that says so. All times are in seconds. Administrators
    can change many of them; then the value is the default.

    ``name``
        As the provider writes it.
    ``token_endpoint``, ``authorization_endpoint``, ``device_authorization_endpoint``, \
``revocation_endpoint``
        URLs. Names in braces stand for what differs between customers (:attr:`places`).
    ``defaults``
        The usual values of some of those names.
    ``client_auth``
        How a client with a secret authenticates, ``"basic"`` or ``"post"``.
    ``grant_type``
        ``"refresh_token"``, or that of a grant that needs no sign-in.
    ``scope``, ``parameters``
        What the authorization request must contain so that a refresh token is issued.
    ``extra``
        Names of further fields that a token request must have; given to :meth:`grant`.
    ``refused``
        Answers to a dead refresh token that are not the ``invalid_grant`` of RFC 6749. The
        grants understand them.
    ``rejected``
        The API's answer to an expired access token, if it is not a plain 401.
    ``rotates``
        Whether a refresh spends the refresh token; ``"optional"`` if that is a setting.
    ``grace``
        For how long a spent refresh token is still accepted; 0 if it is not.
    ``idle_lifetime``, ``absolute_lifetime``
        After which time a session ends that is not refreshed, and one that is;
        infinite if it does not.
    ``access_token_lifetime``
        How long an access token is valid.
    ``refuses_early``
        Whether a refresh is refused while the access token is still valid.
    ``rotation_ends_access_token``
        Whether a refresh ends the old access token.
    ``quirks``
        Anything else that a program must know, as sentences.
    ``pages``
        The public pages that the facts come from, and the fields that each confirms.
    ``read_on``
        The day on which the pages were read, as ``YYYY-MM-DD``.
    """

    name: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    _: dataclasses.KW_ONLY
    pages: Mapping[str, str]
    read_on: str = "2026-11-26"
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    client_auth: Literal["basic", "post"] | None = None
    grant_type: str = "refresh_token"
    scope: tuple[str, ...] = ()
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: tuple[str, ...] = ()
    refused: tuple[Reply, ...] = ()
    rejected: Reply | None = None
    rotates: bool | Literal["optional"] | None = None
    grace: float | None = None
    idle_lifetime: float | None = None
    absolute_lifetime: float | None = None
    access_token_lifetime: float | None = None
    refuses_early: bool | None = None
    rotation_ends_access_token: bool | None = None
    quirks: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """The names that stand in braces in the endpoints, in order."""
        endpoints = (getattr(self, name) or "" for name in ENDPOINTS)
        parsed = string.Formatter().parse("".join(endpoints))
        return tuple(dict.fromkeys(name for _, name, _, _ in parsed if name))

    def endpoints(self, **places: str) -> dict[str, str]:
        """Return the endpoints that exist, with ``places`` filled in.

        Raises ``TypeError`` for a name that is missing or unknown.
        """
        places = {**self.defaults, **places}
        missing = [name for name in self.places if not places.get(name)]
        unknown = sorted(places.keys() - set(self.places))
        if missing or unknown:
            problem = f"needs {missing[0]}=" if missing else f"has no {unknown[0]}="
            raise TypeError(f"{self.name} {problem} (its endpoint is {self.token_endpoint})")
        found = {name: getattr(self, name) for name in ENDPOINTS}
        return {name: url.format(**places) for name, url in found.items() if url}

    def grant(
        self, client_id: str, client_secret: Any = None, **options: Any
    ) -> RefreshTokenGrant | ClientCredentialsGrant:
        """Return the grant for a client of this provider.

        ``options`` are the :attr:`places`, the fields in :attr:`extra`, and any argument of
        :class:`~requests_silent_refresh.RefreshTokenGrant`, which also names the errors.
        """
        from ..grants.oauth import ClientCredentialsGrant, RefreshTokenGrant

        places = {name: options.pop(name) for name in self.places if name in options}
        endpoints = self.endpoints(**places)
        fields = {name: options.pop(name) for name in self.extra if name in options}
        if missing := [name for name in self.extra if name not in fields]:
            raise TypeError(f"{self.name} needs {missing[0]}=")
        if fields:
            options["extra"] = {**fields, **(options.get("extra") or {})}
        arguments = {
            "token_endpoint": endpoints["token_endpoint"],
            "revocation_endpoint": endpoints.get("revocation_endpoint"),
            "client_auth": None if client_secret is None else self.client_auth,
            "grant_type": self.grant_type,
            "refuses_early": self.refuses_early is True,
            **options,
        }
        needs_sign_in = self.grant_type == "refresh_token"
        kind = RefreshTokenGrant if needs_sign_in else ClientCredentialsGrant
        return kind(client_id=client_id, client_secret=client_secret, **arguments)
