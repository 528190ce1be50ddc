"""``silent-refresh settings``, ``move`` and ``reset``."""

from __future__ import annotations

import json
import os

import pytest
from signing_in import home  # noqa: F401 (a fixture)

from requests_silent_refresh import profiles
from requests_silent_refresh.cli import exits, main
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.profiles import Profile, changes, paths
from requests_silent_refresh.stores import moving

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def work(server):
    """A profile that is signed in."""
    grant = {
        "kind": "refresh_token",
        "token_endpoint": server.token_endpoint,
        "client_id": "client",
    }
    changes.sign_in(Profile("work", [server.url], grant), server.sign_in_token())
    return profiles.load("work")


@pytest.fixture
def command(capsys):
    """Run a command; return its exit code, stdout and stderr."""

    def run(*arguments):
        code = main(list(arguments))
        return (code, *capsys.readouterr())

    return run


def test_the_settings_are_printed(work, command):
    """Settings: JSON, which a program can read."""
    code, out, err = command("settings", "work")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(work.to_settings()))


def test_a_setting_is_changed_without_a_sign_in(work, command):
    """Settings: an origin and an adapter's option; the session goes on."""
    code, out, _ = command(
        *("settings", "work", "--origin", "https://api.example.com"),
        *("--adapter-option", "header=X-Token", "--adapter-option", "scheme="),
    )
    assert code == 0
    changed = profiles.load("work")
    assert changed.origins == ("https://api.example.com",)
    assert changed.adapter_options == {"header": "X-Token", "scheme": ""}
    assert (changed.grant, changed.signed_in) == (work.grant, work.signed_in)
    assert changed.manager.signed_in
    assert json.loads(out)["origins"] == ["https://api.example.com"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--client-id", "other"], "use sign-in"),
        (["--store", "file:elsewhere"], "use move"),
        (["--key", "environment:TEST_KEY"], "rotate-key"),
        (["--origin", "http://api.example.com"], "plain http"),
        (["--adapter-option", "header=a b"], "header"),
    ],
)
def test_a_setting_that_would_lose_the_session_is_refused(work, command, options, said):
    """Settings: nothing is changed."""
    code, _, err = command("settings", "work", *options)
    assert code in (exits.USAGE, exits.SETUP)
    assert said in err
    assert profiles.load("work").to_settings() == work.to_settings()


def test_a_session_is_moved(work, server, command, tmp_path, monkeypatch):
    """Move: to another place and another key; the refresh token is not used."""
    monkeypatch.setenv("TEST_KEY", generate_key())
    before = work.open_store()
    code, out, err = command(
        "move", "work", "--store", f"file:{tmp_path}/elsewhere", "--key", "environment:TEST_KEY"
    )
    assert (code, err) == (0, "")
    assert f"{tmp_path}/elsewhere" in out
    moved = profiles.load("work")
    assert moved.manager.signed_in
    assert before.load().token is None
    assert server.counters.exchanges == 0
    moved.manager.renew(moved.manager.token())
    assert server.counters.granted == 1


def test_an_interrupted_move_is_completed_by_the_next(work, command, tmp_path, monkeypatch):
    """Move: after a crash between the copy and the settings the same command goes on."""
    target = ("move", "work", "--store", f"file:{tmp_path}/elsewhere")
    copy = moving.copy_state

    def cut(*arguments):
        copy(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(changes, "copy_state", cut)
    assert command(*target)[0] == exits.INTERRUPTED
    monkeypatch.setattr(changes, "copy_state", copy)
    assert command(*target)[0] == 0
    assert profiles.load("work").manager.signed_in


@pytest.mark.parametrize("options", [[], ["--key", "environment:TEST_KEY"]])
def test_a_move_to_the_same_place_is_refused(work, command, options):
    """Move: the store is missing."""
    code, _, err = command("move", "work", *options)
    assert code == exits.USAGE
    assert "--store is missing" in err


def test_tokens_whose_key_is_lost_are_moved_aside(work, server, command):
    """Reset: then a sign-in is possible again."""
    os.remove(paths.key_file("work"))
    code, out, _ = command("reset", "work")
    assert code == 0
    assert "quarantine" in out
    assert "silent-refresh sign-in work" in out
    changes.sign_in(work, server.sign_in_token())
    assert profiles.load("work").manager.signed_in


def test_tokens_that_can_be_read_are_not_reset(work, command):
    """Reset: it revokes nothing, so a living session is for sign-out."""
    code, _, err = command("reset", "work")
    assert code == exits.USAGE
    assert "use sign-out" in err
    assert profiles.load("work").manager.signed_in
