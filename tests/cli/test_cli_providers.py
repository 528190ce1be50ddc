"""``silent-refresh providers``, and ``--provider`` instead of a server's URLs."""

from __future__ import annotations

import json
import os
import sys

import pytest
import requests
from signing_in import home  # noqa: F401 (a fixture)

from requests_silent_refresh import cli, profiles, providers
from requests_silent_refresh.testing import Answer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def command(capsys, monkeypatch):
    """Run a command in this process, and return its exit code, stdout and stderr."""

    def command(*arguments, stdin=""):
        read, write = os.pipe()
        os.write(write, stdin.encode())
        os.close(write)
        with open(read) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            return (cli.main(arguments), *capsys.readouterr())

    return command


@pytest.fixture
def imported(server, command, monkeypatch):
    """Import tokens with options, and return the resulting profile."""
    monkeypatch.setenv("TEST_SECRET", "secret")

    def imported(*options):
        basics = ("--client-id", "client", "--origin", server.url)
        tokens = json.dumps(server.sign_in())
        code, _, err = command("import", "work", *basics, *options, stdin=tokens)
        assert code == 0, err
        return profiles.load("work")

    return imported


def test_all_providers_are_listed(command):
    """Without a name: one line each."""
    code, out, _ = command("providers")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == providers.listed()


@pytest.mark.parametrize("name", providers.listed())
def test_a_provider_is_shown_with_its_pages(command, name):
    """With a name: the endpoints, the quirks and the pages."""
    code, out, _ = command("providers", name)
    assert code == 0
    provider = providers.named(name)
    for text in (provider.token_endpoint, provider.read_on, *provider.pages):
        assert text in out
    words = " ".join(out.split())
    assert all(quirk in words for quirk in provider.quirks)


def test_an_unknown_provider_is_refused_with_the_known_ones(command):
    """Exit code 2, and one line."""
    for arguments in (
        ["providers", "acme"],
        ["sign-in", "work", "--provider", "acme", "--client-id", "c", "--origin", "https://a"],
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert "there is no provider 'acme'; known are atlassian," in err


def test_a_provider_stands_for_its_settings(imported):
    """Endpoints, client authentication, scope and parameters become settings."""
    profile = imported(
        *("--provider", "atlassian", "--client-secret", "environment:TEST_SECRET"),
        *("--scope", "read:jira-work"),
    )
    assert profile.grant == {
        "kind": "refresh_token",
        "client_id": "client",
        "client_auth": "post",
        "client_secret": {"environment": "TEST_SECRET"},
        "token_endpoint": "https://auth.atlassian.com/oauth/token",
    }
    assert profile.sign_in == {
        "authorization_endpoint": "https://auth.atlassian.com/authorize",
        "parameters": {"audience": "api.atlassian.com", "prompt": "consent"},
        "scope": ["offline_access", "read:jira-work"],
        "method": "import",
    }


def test_what_is_given_takes_precedence(imported):
    """An endpoint of one's own, and the places in the others."""
    profile = imported(
        *("--provider", "gitlab", "--at", "host=git.example.com"),
        *("--token-endpoint", "https://git.example.com/other"),
    )
    assert profile.grant["token_endpoint"] == "https://git.example.com/other"
    assert profile.grant["revocation_endpoint"] == "https://git.example.com/oauth/revoke"
    assert "client_auth" not in profile.grant


def test_a_server_that_refuses_early_refreshes_is_known_as_such(imported):
    """The setting is the grant's argument."""
    profile = imported("--provider", "exact-online")
    assert profile.grant["refuses_early"] is True
    assert profile.make_grant().refuses_early


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--provider", "okta"], "Okta needs domain="),
        (["--provider", "gitlab", "--at", "realm=x"], "GitLab has no realm="),
        (["--at", "domain=x"], "give one"),
        (["--provider", "zoom-server-to-server"], "needs --parameter account_id="),
    ],
)
def test_a_missing_place_is_named(command, options, said):
    """Exit code 2, and what to give."""
    basics = ("--client-id", "c", "--origin", "https://api.example.com")
    code, _, err = command("sign-in", "work", *basics, *options)
    assert code == 2
    assert said in err


def test_a_server_with_a_grant_type_of_its_own(server, command, monkeypatch):
    """Zoom's ``account_credentials``: at the sign-in, and at each refresh of a script."""
    monkeypatch.setenv("TEST_SECRET", "secret")
    forms = []

    def token(request, answer):
        forms.append(dict(request.form))
        return Answer.json(200, {"access_token": server.sign_in()["access_token"]})

    server.on("/token", token)
    code, _, err = command(
        *("sign-in", "work", "--provider", "zoom-server-to-server", "--client-id", "client"),
        *("--client-secret", "environment:TEST_SECRET", "--parameter", "account_id=acme"),
        *("--origin", server.url, "--token-endpoint", server.token_endpoint),
    )
    assert code == 0, err
    server.revoke_access_tokens()
    with requests.Session() as session:
        profiles.load("work").mount_on(session)
        assert session.get(server.resource).status_code == 200
    assert forms == [{"grant_type": "account_credentials", "account_id": "acme"}] * 2
