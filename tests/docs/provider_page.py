"""Make the page docs/providers.rst from the data: ``python tests/docs/provider_page.py``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from requests_silent_refresh import providers
from requests_silent_refresh.providers.description import rows
from requests_silent_refresh.providers.provider import Provider

PAGE = Path(__file__).parents[2] / "docs" / "providers.rst"
BEGINNING = """\
.. This page is made from requests_silent_refresh/providers by tests/docs/provider_page.py.

Providers
=========

What the public documentation of well-known authorization servers says about their tokens. Each
section is a ``Provider`` in ``requests_silent_refresh.providers``, which makes the grant:

.. code-block:: python

    from requests_silent_refresh import TokenManager, providers
    from requests_silent_refresh.secret_sources import FromEnvironment

    grant = providers.SALESFORCE.grant("my-client-id", FromEnvironment("SALESFORCE_SECRET"))
    manager = TokenManager(grant)

    # What differs between customers stands in braces in the endpoints, and is given by its name.
    providers.OKTA.grant("my-client-id", domain="example.okta.com")

    # Every argument of the grant can be given as well, and replaces what the data say.
    providers.HUBSPOT.grant("my-client-id", token_endpoint="https://api.example.com/token")

On the command line, ``silent-refresh providers`` lists them, and
``silent-refresh sign-in NAME --provider salesforce`` signs in with their settings
(``command-line.rst``).

A fact that is missing here was not found on a public page. The data inform people and make the
grant; they never make it less careful: a refresh token is treated as one that a refresh spends,
whatever the section says.
"""


def page() -> str:
    """Return the text of the page."""
    known = [(name, providers.named(name)) for name in providers.listed()]
    return (
        "\n".join([BEGINNING, *(line for one in known for line in section(*one))]).rstrip() + "\n"
    )


def section(name: str, provider: Provider) -> Iterator[str]:
    """Yield the lines about one provider."""
    yield from (provider.name, "-" * len(provider.name), "")
    yield from (f"``providers.{name.upper().replace('-', '_')}``, ``--provider {name}``", "")
    for label, text in rows(provider):
        quoted = text if re.fullmatch(r"[a-z0-9. ]+", text) and "_" not in text else f"``{text}``"
        yield f"* {label}: {quoted}"
    yield ""
    for quirk in provider.quirks:
        yield from textwrap.wrap(quirk, 98, initial_indent="* ", subsequent_indent="  ")
    if provider.quirks:
        yield ""
    yield from (f"Read on {provider.read_on}:", "")
    for url, fields in provider.pages.items():
        yield f"* {url}"
        confirmed = ", ".join(field.replace("_", " ") for field in fields.split())
        yield from textwrap.wrap(f"({confirmed})", 96, initial_indent="  ", subsequent_indent="  ")
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
