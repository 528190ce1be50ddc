"""``silent-refresh``: which settings the options change, and which they keep."""

from __future__ import annotations

import json
import os
import sys
import threading

import pytest
from signing_in import home, keyring_in_memory, run, set_up  # noqa: F401 (two fixtures)

from requests_silent_refresh import Token, cli, profiles
from requests_silent_refresh.cli import exits
from requests_silent_refresh.cli.app import uninterrupted
from requests_silent_refresh.cli.sign_in import conclude, keep
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.profiles import Profile, changes, paths
from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def imported(server, capsys, monkeypatch):
    """Import tokens with options, and return the resulting profile, or stderr if it failed."""

    def imported(*options, fresh=True, code=0):
        read, write = os.pipe()
        os.write(write, json.dumps(server.sign_in()).encode())
        os.close(write)
        with open(read) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            result = cli.main(["import", "work", *(set_up(server) if fresh else ()), *options])
        _, err = capsys.readouterr()
        assert result == code, err
        return profiles.load("work") if code == 0 else err

    return imported


def test_the_options_become_settings(server, imported):
    """Options: the issuer's endpoints, client, origins and scope become the profile's settings."""
    profile = imported("--scope", "a b", "--scope", "c", "--origin", "https://api.example.com")
    assert profile.origins == (server.url, "https://api.example.com")
    assert profile.grant == {
        "kind": "refresh_token",
        "client_id": "client",
        "token_endpoint": server.token_endpoint,
        "revocation_endpoint": server.revocation_endpoint,
    }
    assert profile.sign_in == {
        "issuer": server.issuer,
        "issuer_name": server.issuer,
        "authorization_endpoint": server.authorization_endpoint,
        "device_authorization_endpoint": server.device_authorization_endpoint,
        "iss_in_callback": True,
        "scope": ["a", "b", "c"],
        "method": "import",
    }


@pytest.mark.parametrize(
    ("methods", "options", "expected"),
    [
        (["client_secret_post", "none"], (), "post"),
        (["client_secret_post"], ("--client-auth", "basic"), "basic"),
        (["client_secret_basic", "client_secret_post"], (), None),
        (["client_secret_post"], ("--client-secret", "none"), None),
        (None, (), None),
    ],
)
def test_the_client_authenticates_as_the_server_supports(
    server, imported, monkeypatch, methods, options, expected
):
    """RFC 8414 section 2: with a secret, ``post`` where only that is supported; options win."""
    monkeypatch.setenv("TEST_SECRET", "x")
    known = {"token_endpoint_auth_methods_supported": methods} if methods else {}
    where = "/.well-known/oauth-authorization-server"
    server.on(where, lambda request, real: real.but(payload={**real.payload, **known}))
    secret = ("--client-secret", "environment:TEST_SECRET")
    profile = imported(*secret, *options)
    assert profile.grant.get("client_auth") == expected


def test_pkce_matters_for_a_browser_only(server, imported):
    """RFC 9700 section 2.1.1: an import or a machine needs no S256 of the server."""
    where = "/.well-known/oauth-authorization-server"
    known = {"code_challenge_methods_supported": ["plain"]}
    server.on(where, lambda request, real: real.but(payload={**real.payload, **known}))
    assert imported().grant["token_endpoint"] == server.token_endpoint


def test_settings_without_an_option_are_kept(imported):
    """Options: a later command changes only the settings it names."""
    first = imported("--scope", "a")
    second = imported("--scope", "b", fresh=False)
    assert second.sign_in == {**first.sign_in, "scope": ["b"]}
    assert (second.grant, second.origins) == (first.grant, first.origins)


def test_endpoints_in_options_override_those_of_an_issuer(server, imported):
    """Options: --token-endpoint replaces the issuer; other endpoints can be given with it."""
    imported()
    hand = server.url + "/json/../token"
    profile = imported("--token-endpoint", hand, "--revocation-endpoint", hand, fresh=False)
    assert profile.grant["token_endpoint"] == hand
    assert profile.grant["revocation_endpoint"] == hand
    assert "issuer" not in profile.sign_in
    profile = imported("--authorization-endpoint", server.url + "/a")
    assert profile.sign_in["authorization_endpoint"] == server.url + "/a"
    assert profile.grant["token_endpoint"] == server.token_endpoint


@pytest.mark.parametrize(
    ("option", "reference"),
    [
        ("environment:NAME", {"environment": "NAME"}),
        ("file:~/secret", {"file": os.path.expanduser("~/secret")}),
        ("keyring:service/account", {"keyring": "service", "account": "account"}),
        ("keyring:service", {"keyring": "service"}),
    ],
)
def test_a_client_secret_is_stored_as_a_reference(imported, option, reference):
    """P12: the settings contain only a reference, and 'none' removes it."""
    profile = imported("--client-secret", option, "--client-auth", "post")
    assert profile.grant["client_secret"] == reference
    assert profile.grant["client_auth"] == "post"
    profile = imported("--client-secret", "none", "--client-auth", "none", fresh=False)
    assert "client_secret" not in profile.grant


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["environment:TEST_KEY"], {"environment": "TEST_KEY"}),
        (["keyring:service/account"], {"keyring": "service", "account": "account"}),
        (["passphrase-environment:TEST_KEY"], {"passphrase": {"environment": "TEST_KEY"}}),
        (["passphrase-file:phrase"], {"passphrase": {"file": "=phrase"}}),
        (
            ["key-file:a", "key-file:b"],
            [{"key_file": "=a", "make": True}, {"key_file": "=b", "make": True}],
        ),
    ],
)
@pytest.mark.usefixtures("keyring_in_memory")
def test_a_key_is_stored_as_a_reference(imported, options, key, tmp_path, monkeypatch):
    """P12: each source of keys has an option. A path, written ``=`` here, is made absolute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", generate_key())
    (tmp_path / "phrase").write_text("a long passphrase")
    profile = imported(*(word for option in options for word in ("--key", option)))
    made_absolute = json.loads(json.dumps(key).replace('": "=', f'": "{tmp_path}/'))
    assert profile.key == made_absolute
    assert profile.manager.signed_in
    assert not os.path.exists(paths.key_file("work")), "the profile has no key file of its own"


def test_a_store_is_named_by_its_url(server, imported, tmp_path, monkeypatch):
    """Options: a file, SQL, and a URL from the environment; a URL with a password is refused."""
    pytest.importorskip("sqlalchemy")
    assert imported("--store", f"file:{tmp_path / 'tokens'}").place == str(tmp_path / "tokens")
    assert imported("--store", "file:").store == {"kind": "file"}
    url = f"sqlite:///{tmp_path / 'db'}"
    key = ["--key", f"key-file:{tmp_path / 'key'}"]
    profile = imported("--store", url, "--store-name", "shared", *key)
    assert profile.store == {"kind": "sql", "url": url, "name": "shared"}
    assert run("token", "work").out.startswith("at-")
    monkeypatch.setenv("TEST_URL", url)
    profile = imported("--store", "environment:TEST_URL")
    assert profile.store == {"kind": "sql", "url": {"environment": "TEST_URL"}}
    assert run("token", "work").out.startswith("at-")
    err = imported("--store", "postgresql://user:hunter2@db/x", code=exits.SETUP)
    assert "must not be stored in settings" in err
    assert "hunter2" not in err


def test_a_shared_store_needs_a_key_that_every_host_has(imported, tmp_path):
    """Options: the profile's own key file is local, so an engine needs another key."""
    pytest.importorskip("sqlalchemy")
    err = imported("--store", f"sqlite:///{tmp_path / 'db'}", code=exits.SETUP)
    assert err.startswith("silent-refresh: the profile 'work' cannot be used: ")
    assert profiles.listed() == []


def test_a_profile_changes_its_kind(server, imported):
    """Options: from JSON to OAuth and back, no setting of the other kind is kept."""
    url = server.json_endpoint
    profile = imported("--json-refresh", url, "--grant-option", "timeout=5")
    assert profile.grant == {"kind": "json", "url": url, "timeout": 5}
    profile = imported()
    assert profile.grant["kind"] == "refresh_token"
    assert "timeout" not in profile.grant
    assert imported("--json-refresh", url).grant == {"kind": "json", "url": url}


def test_client_credentials_send_their_parameters_at_each_refresh(monkeypatch):
    """Options: for client credentials, scope and parameters become settings of the grant."""
    monkeypatch.setenv("TEST_SECRET", "s3cret")
    with AuthorizationServer(client_secret="s3cret") as server:
        options = ["--client-credentials", "--client-secret", "environment:TEST_SECRET"]
        options += ["--scope", "a", "--parameter", "audience=x"]
        assert cli.main(["sign-in", "bot", *set_up(server), *options]) == 0
    grant = profiles.load("bot").grant
    assert (grant["kind"], grant["scope"], grant["extra"]) == (
        "client_credentials",
        "a",
        {"audience": "x"},
    )


def test_an_earlier_session_that_cannot_be_ended_is_reported(server, capsys, tmp_path):
    """Sign-in: the new session is stored all the same; the failure is one line."""

    def profile(client_id, path):
        grant = {"kind": "refresh_token", "token_endpoint": server.token_endpoint}
        grant["client_id"] = client_id
        return Profile("work", [server.url], grant, {"kind": "file", "path": str(tmp_path / path)})

    changes.sign_in(profile("old", "old"), server.sign_in_token())
    (tmp_path / "old").write_bytes(b"damaged")
    new = profile("new", "new")
    conclude(new, Token("a"), changes.sign_in(new, Token("a")))
    out, err = capsys.readouterr()
    assert "Signed in to work." in out
    assert "earlier session could not be ended" in err


def test_a_sign_in_replaces_broken_settings(server, capsys):
    """Sign-in: settings that were damaged while the person signed in are replaced."""
    grant = {"kind": "refresh_token", "token_endpoint": server.token_endpoint, "client_id": "c"}
    profile = Profile("work", [server.url], grant)
    profile.save()
    with open(paths.settings_file("work"), "w") as file:
        file.write("{")
    assert cli.main(["sign-in", "work", *set_up(server)]) == exits.SETUP
    assert "repair or remove it" in capsys.readouterr().err
    keep(profile, Token("a"), None, revoke=True)
    assert profiles.load("work").manager.signed_in


def test_an_empty_secret_is_refused(server, capsys, monkeypatch):
    """Sign-in: an empty line at the prompt is not used as the secret."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        options = ["--client-credentials", "--client-secret", "ask"]
        assert cli.main(["sign-in", "work", *set_up(server), *options]) == exits.USAGE
    assert "Client secret: nothing was given" in capsys.readouterr().err


def test_ctrl_c_is_left_alone_outside_the_main_thread():
    """Interrupts: only the main thread can set signal handlers; elsewhere the body still runs."""
    done = []

    def work():
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
