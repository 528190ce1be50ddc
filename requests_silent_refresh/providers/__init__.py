"""What well-known authorization servers need, as data: ``providers.SALESFORCE.grant(...)``.

Each name in capitals is a :class:`Provider`. :func:`named` finds one by its name on the command
line (``github-app``), and :func:`listed` returns those names.
"""

from __future__ import annotations

from . import business, consumer, identity, office
from .business import (
    DATABRICKS,
    DATABRICKS_M2M,
    EXACT_ONLINE,
    HUBSPOT,
    QUICKBOOKS,
    SALESFORCE,
    SNOWFLAKE,
    XERO,
)
from .consumer import (
    FITBIT,
    SPOTIFY,
    STRAVA,
)
from .identity import (
    AUTH0,
    COGNITO,
    GITHUB_APP,
    GITLAB,
    GOOGLE,
    KEYCLOAK,
    MICROSOFT_ENTRA,
    OKTA,
)
from .office import (
    ATLASSIAN,
    BOX,
    DROPBOX,
    SLACK,
    ZOOM,
    ZOOM_SERVER_TO_SERVER,
)
from .provider import Provider, Reply

_BY_NAME = {
    name.lower().replace("_", "-"): value
    for module in (identity, business, office, consumer)
    for name, value in vars(module).items()
    if isinstance(value, Provider)
}


def listed() -> list[str]:
    """Return the names of all providers, sorted."""
    return sorted(_BY_NAME)


def named(name: str) -> Provider:
    """Return the provider called ``name``, in any case, with ``-``, ``_`` or spaces.

    Raises ``LookupError`` for an unknown name; the message lists those that are known.
    """
    provider = _BY_NAME.get("-".join(name.lower().replace("_", " ").replace("-", " ").split()))
    if provider is None:
        raise LookupError(f"there is no provider {name!r}; known are {', '.join(listed())}")
    return provider


__all__ = [
    "ATLASSIAN",
    "AUTH0",
    "BOX",
    "COGNITO",
    "DATABRICKS",
    "DATABRICKS_M2M",
    "DROPBOX",
    "EXACT_ONLINE",
    "FITBIT",
    "GITHUB_APP",
    "GITLAB",
    "GOOGLE",
    "HUBSPOT",
    "KEYCLOAK",
    "MICROSOFT_ENTRA",
    "OKTA",
    "QUICKBOOKS",
    "SALESFORCE",
    "SLACK",
    "SNOWFLAKE",
    "SPOTIFY",
    "STRAVA",
    "XERO",
    "ZOOM",
    "ZOOM_SERVER_TO_SERVER",
    "Provider",
    "Reply",
    "listed",
    "named",
]
