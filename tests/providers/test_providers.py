"""The data about providers: each fact has its page, and a grant is made from it."""

from __future__ import annotations

import dataclasses
import datetime
import pickle
import subprocess
import sys
import urllib.parse

import pytest

from requests_silent_refresh import providers
from requests_silent_refresh.grants.oauth import ClientCredentialsGrant, RefreshTokenGrant
from requests_silent_refresh.providers.provider import ENDPOINTS, Provider
from requests_silent_refresh.secret_sources import FromEnvironment

ALL = {name: providers.named(name) for name in providers.listed()}
WITHOUT_PAGE = {"name", "pages", "read_on", "defaults"}
PLACES = {"tenant": "t", "domain": "d.example", "host": "h.example", "realm": "r", "account": "a"}

everywhere = pytest.mark.parametrize("provider", ALL.values(), ids=ALL)


def options_of(provider, **options):
    """Return arguments for the provider's grant, with an example for each place."""
    needed = {name: PLACES[name] for name in provider.places if name not in provider.defaults}
    return {**needed, **dict.fromkeys(provider.extra, "x"), **options}


def test_the_usual_providers_are_there():
    """The list of the issue."""
    asked = (
        "google microsoft-entra okta auth0 keycloak cognito salesforce box quickbooks xero "
        "hubspot zoom slack github-app gitlab atlassian spotify strava fitbit dropbox databricks "
        "snowflake"
    )
    assert set(asked.split()) <= ALL.keys()


@everywhere
def test_each_fact_comes_from_a_page(provider):
    """Every field with a value is confirmed by a page, and no page confirms an empty field."""
    defaults = {field.name: field.default for field in dataclasses.fields(Provider)}
    given = {
        name
        for name, default in defaults.items()
        if getattr(provider, name) not in (None, default, {}, ())
    }
    confirmed = {name for fields in provider.pages.values() for name in fields.split()}
    assert given - WITHOUT_PAGE == confirmed


@everywhere
def test_the_pages_are_public_and_were_read(provider):
    """A page is an https URL, and the day is a date."""
    for url in provider.pages:
        assert urllib.parse.urlsplit(url).scheme == "https"
        assert "." in urllib.parse.urlsplit(url).netloc
    assert datetime.date.fromisoformat(provider.read_on) >= datetime.date(2026, 11, 26)


@everywhere
def test_a_grant_is_made_from_the_data(provider):
    """The endpoint, and the client's authentication if it has a secret."""
    grant = provider.grant("id", FromEnvironment("S"), **options_of(provider))
    needs_sign_in = provider.grant_type == "refresh_token"
    assert type(grant) is (RefreshTokenGrant if needs_sign_in else ClientCredentialsGrant)
    assert "{" not in grant._endpoint.url
    assert grant.refuses_early is (provider.refuses_early is True)
    pickle.loads(pickle.dumps(grant))


@everywhere
def test_the_endpoints_are_https(provider):
    """Also the templates: what stands for a customer is never the scheme."""
    for name in ENDPOINTS:
        assert (getattr(provider, name) or "https://").startswith("https://")


def test_a_place_that_is_missing_or_unknown_is_named():
    """The message says what to give."""
    with pytest.raises(TypeError, match="Okta needs domain="):
        providers.OKTA.grant("id")
    with pytest.raises(TypeError, match="domian"):
        providers.OKTA.grant("id", domain="d.example", domian="d.example")
    with pytest.raises(TypeError, match="Okta has no host="):
        providers.OKTA.endpoints(domain="d.example", host="x")
    with pytest.raises(TypeError, match="needs account_id="):
        providers.ZOOM_SERVER_TO_SERVER.grant("id", FromEnvironment("S"))


def test_every_argument_of_the_grant_can_be_replaced():
    """For a server of one's own, and a newer endpoint."""
    grant = providers.HUBSPOT.grant("id", token_endpoint="https://api.example.com/v3/token")
    assert repr(grant) == "RefreshTokenGrant('https://api.example.com/v3/token', client_id='id')"


def test_a_provider_is_found_by_its_name():
    """As on the command line; another name lists the known ones."""
    assert providers.named("GitHub app") is providers.named("github_app") is providers.GITHUB_APP
    with pytest.raises(LookupError, match="there is no provider 'acme'; known are atlassian"):
        providers.named("acme")


def test_the_package_does_not_load_the_providers():
    """Importing them costs nothing, and they load no grant."""
    code = (
        "import sys, requests_silent_refresh as r; r.RefreshTokenGrant;"
        "assert not any('providers' in name for name in sys.modules);"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    code = (
        "import sys; from requests_silent_refresh import providers; providers.OKTA;"
        "assert 'requests_silent_refresh.grants.oauth' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
