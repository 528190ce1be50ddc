"""Profiles: names, settings without secrets, and sign-ins that are whole or have not happened."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import keyring
import keyring.backend
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from signing_in import files_in, home  # noqa: F401 (a fixture)

from requests_silent_refresh import (
    ClientCredentialsGrant,
    EncryptedFileStore,
    JSONRefresh,
    SessionExpired,
    Token,
    profiles,
)
from requests_silent_refresh.profiles import Profile, ProfileError, changes, names, paths
from requests_silent_refresh.profiles.references import Kept
from requests_silent_refresh.system import private_files
from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")


def refresh_grant(url="https://auth.example.com/token", client_id="client", **more):
    return {"kind": "refresh_token", "token_endpoint": url, "client_id": client_id, **more}


def profile_for(server, name="work", **fields):
    revocation = server.revocation_endpoint
    usual = refresh_grant(server.token_endpoint, revocation_endpoint=revocation)
    fields.setdefault("grant", usual)
    return Profile(name, [server.url], **fields)


def signed_in(server, name="work", **fields):
    profile = profile_for(server, name, **fields)
    changes.sign_in(profile, server.sign_in_token())
    return profiles.load(name)


# Names.


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("work", "work"),
        ("Work", "=57ork"),
        ("my work", "my=20work"),
        ("../../etc/passwd", "=2e=2e=2f=2e=2e=2fetc=2fpasswd"),
        ("a.json", "a=2ejson"),
        ("con", "=63on"),
        ("lpt1", "=6cpt1"),
        ("console", "console"),
        ("=57", "=3d57"),
        ("caf\u00e9", "caf=c3=a9"),
        ("cafe\u0301", "caf=c3=a9"),
        ("-x", "-x"),
        (" work ", "work"),
        ("~", "=7e"),
        ("%2e", "=252e"),
    ],
)
def test_a_name_becomes_a_safe_file_name(name, file):
    """Names: whatever people type, the file name is plain, and two spellings of one are one."""
    assert names.to_file_name(name) == file
    assert names.from_file_name(file) == names.normal(name)


SAFE = frozenset(string.ascii_lowercase + string.digits + "-_=")

printable = st.text(min_size=1, max_size=15).filter(
    lambda text: text.strip() and names.unicodedata.normalize("NFC", text.strip()).isprintable()
)


@given(printable, printable)
def test_names_never_meet_and_come_back(one, other):
    """Names: reversible, and free of collisions where capitals do not count."""
    file = names.to_file_name(one)
    assert set(file) <= SAFE
    assert names.from_file_name(file) == names.normal(one)
    same = names.normal(one) == names.normal(other)
    assert (file.casefold() == names.to_file_name(other).casefold()) == same


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "a\x1b[2J", "\x00", "x" * 500, "\udcff", "\u202ework", None, 7]
)
def test_what_is_no_name_is_refused(name):
    """Names: empty, endless, unprintable ones are a ValueError that says so."""
    with pytest.raises(ValueError, match="a profile"):
        names.to_file_name(name)


@pytest.mark.parametrize("file", ["Work", "=2", "=zz", "wo rk", "a.b", "=77ork", "=ff", ""])
def test_other_files_are_no_profiles(file):
    """Names: what this package would not have written is not listed."""
    assert names.from_file_name(file) is None


def test_profiles_are_listed_by_name(server):
    """Names: sorted, and files that are none passed over."""
    assert profiles.listed() == []
    for name in ("b", "A b", "a"):
        profile_for(server, name).save()
    directory = paths.settings_directory()
    for stray in ("README", "X.json", "work.json.new"):
        with open(os.path.join(directory, stray), "w") as file:
            file.write("{}")
    assert profiles.listed() == ["A b", "a", "b"]


# What a script does.


def test_a_script_needs_one_line(server):
    """Profiles: ``profiles.load(NAME).mount_on(session)`` is all; it survives ten expiries (P1)."""
    signed_in(server)
    with requests.Session() as session:
        profiles.load("work").mount_on(session)
        for _ in range(10):
            server.revoke_access_tokens()
            assert session.get(server.resource).status_code == 200
    assert server.counters.granted == 10
    assert server.counters.reuse_detections == 0


def test_a_manager_that_was_not_used_before_signs_out(server):
    """Sign-out: a process that does nothing else revokes and wipes all the same."""
    signed_in(server).manager.sign_out()
    assert profiles.load("work").manager.signed_in is False
    assert server.counters.revocations == 1


def test_an_unknown_profile_names_the_command(server):
    """Profiles: who has none is told how to make one."""
    with pytest.raises(ProfileError, match="silent-refresh sign-in 'my work' --issuer"):
        profiles.load("my work")


@pytest.mark.parametrize(
    ("name", "command"), [("work", "sign-in work"), ("-x y", "sign-in -- '-x y'")]
)
def test_an_ended_session_names_the_command_to_sign_in(server, name, command):
    """P9: SessionExpired through a profile says what to type, then and for each later request."""
    profile = signed_in(server, name)
    with requests.Session() as session:
        profile.mount_on(session)
        assert session.get(server.resource).ok
        profiles.load(name).manager.sign_out()
        for _ in range(2):
            with pytest.raises(SessionExpired, match=f"run silent-refresh {command}$"):
                session.get(server.resource)


def test_a_refused_refresh_names_the_command_to_sign_in(server):
    """P9: the server's own verdict is followed by what to type."""
    profile = signed_in(server)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with pytest.raises(SessionExpired, match=r"\(invalid_grant\); run silent-refresh sign-in work"):
        profile.manager.renew(profile.manager.token())


def test_client_credentials_and_json_are_grants_too():
    """Profiles: any grant, with its class's own arguments."""
    with AuthorizationServer(client_secret="s3cret") as server:
        grant = {
            "kind": "client_credentials",
            "token_endpoint": server.token_endpoint,
            "client_id": "client",
            "client_secret": {"environment": "TEST_SECRET"},
        }
        os.environ["TEST_SECRET"] = "s3cret"
        try:
            machine = profile_for(server, "machine", grant=grant)
            assert isinstance(machine.make_grant(), ClientCredentialsGrant)
            assert machine.manager.token().access_token
        finally:
            del os.environ["TEST_SECRET"]
        shop = signed_in(
            server, "shop", grant={"kind": "json", "url": server.json_endpoint + "/flat"}
        )
        assert isinstance(shop.make_grant(), JSONRefresh)
        assert shop.manager.renew(shop.manager.token())


def test_any_store_can_be_named(server, tmp_path):
    """Profiles: a file elsewhere, SQL and Redis, with a key from where it is said."""
    key = {"key_file": str(tmp_path / "fleet.key"), "make": True}
    elsewhere = signed_in(server, store={"kind": "file", "path": str(tmp_path / "t" / "tokens")})
    assert elsewhere.place == str(tmp_path / "t" / "tokens")
    assert elsewhere.manager.signed_in
    pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    sql = signed_in(server, "sql", store={"kind": "sql", "url": url, "name": "x"}, key=key)
    assert sql.manager.renew(sql.manager.token())
    sql.open_store().close()
    sql.manager._store.close()
    pytest.importorskip("redis")
    redis = profile_for(
        server, store={"kind": "redis", "url": {"environment": "REDIS_URL"}}, key=key
    )
    assert "RedisStore" in repr(redis.open_store())
    assert "REDIS_URL" in redis.place


def test_adapter_options_reach_the_adapter(server):
    """Profiles: an API that wants the token in another header gets it there."""
    signed_in(server, adapter_options={"header": "X-Token", "scheme": ""})
    with requests.Session() as session:
        profiles.load("work").mount_on(session)
        seen = session.get(server.url + "/open").json()["headers"]
    assert seen["x-token"].startswith("at-")


# Settings.


def test_settings_are_a_private_file_without_secrets(server, home):  # noqa: F811
    """P12: 0600, and neither tokens nor a typed secret are in it or beside it in plain text."""
    token = server.sign_in_token()
    grant = refresh_grant(server.token_endpoint, client_secret={"kept": "client_secret-1"})
    Kept("work", "client_secret-1").keep("typed s3cret")
    changes.sign_in(profile_for(server, grant=grant), token)
    path = paths.settings_file("work")
    assert os.stat(path).st_mode & 0o777 == 0o600
    for content in files_in(home).values():
        for secret in (token.access_token, token.refresh_token):
            assert secret.reveal().encode() not in content
        assert b"typed s3cret" not in content
    assert profiles.load("work").make_grant()._client_secret() == "typed s3cret"


@pytest.mark.parametrize(
    "fields",
    [
        {"grant": refresh_grant(client_secret="hunter2")},
        {"grant": refresh_grant(extra={"client_assertion": "hunter2"})},
        {"grant": {"kind": "json", "url": "https://a.example", "headers": {"X-Key": "hunter2"}}},
        {"grant": refresh_grant(proxies={"https": "http://user:hunter2@proxy.example"})},
        {"grant": refresh_grant(url="https://user:hunter2@auth.example.com/token")},
        {"grant": refresh_grant(), "store": {"kind": "sql", "url": "postgresql://u:hunter2@db/x"}},
        {"grant": refresh_grant(), "sign_in": {"parameters": {"api_key": "hunter2"}}},
    ],
)
def test_a_secret_is_not_written_into_settings(fields):
    """P12: a literal secret is refused, and the message does not show it."""
    with pytest.raises(ValueError, match="not written into settings") as caught:
        Profile("work", ["https://api.example.com"], **fields)
    assert "hunter2" not in str(caught.value)


def test_a_literal_key_is_not_used(server):
    """P12: nor is an encryption key."""
    with pytest.raises(ProfileError, match="a key is not written into settings"):
        profile_for(server, key="A" * 43 + "=").open_store()


class InMemory(keyring.backend.KeyringBackend):
    """A keyring for the tests, as ``keyring`` wants one."""

    priority = 1

    def __init__(self):
        self.held = {}

    def get_password(self, service, username):
        return self.held.get((service, username))

    def set_password(self, service, username, password):
        self.held[service, username] = password

    def delete_password(self, service, username):
        del self.held[service, username]


def test_a_secret_comes_from_where_it_is_said_to_be(tmp_path, monkeypatch):
    """P12: environment, file, keyring, or kept: asked for at each exchange."""
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("TEST_SECRET", "from the environment")
    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    try:
        keyring.set_password("service", "account", "from the keyring")
        Kept("work", "client_secret-1").keep("kept")
        told = {
            "from the environment": {"environment": "TEST_SECRET"},
            "from a file": {"file": str(tmp_path / "secret")},
            "from the keyring": {"keyring": "service", "account": "account"},
            "kept": {"kept": "client_secret-1"},
        }
        for secret, reference in told.items():
            profile = Profile(
                "work", ["https://api.example.com"], refresh_grant(client_secret=reference)
            )
            assert profile.make_grant()._client_secret() == secret
        missing = Profile(
            "work", ["https://a.example"], refresh_grant(client_secret={"keyring": "nobody"})
        )
        with pytest.raises(LookupError, match="holds nothing for 'work' of 'nobody'"):
            missing.make_grant()._client_secret()
    finally:
        keyring.set_keyring(before)


def test_a_secret_that_is_not_kept_any_more_is_said():
    """Profiles: the message names what to type."""
    with pytest.raises(LookupError, match="--client-secret ask"):
        Kept("work", "client_secret-1")()
    kept = Kept("work", "client_secret-1")
    kept.keep("x")
    kept.rotate_key()
    assert kept() == "x"
    kept.forget()
    kept.forget()
    with pytest.raises(LookupError):
        kept()
    with pytest.raises(ValueError, match="no secret is kept under"):
        Kept("work", "../../x")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ({"key_file": "~/some.key"}, "KeyFile"),
        ({"passphrase": {"environment": "TEST_PASSPHRASE"}}, "Passphrase"),
        ({"keyring": "silent-refresh"}, "KeyringKey"),
        ({"environment": "TEST_KEY"}, "Asked"),
        ([{"key_file": "~/a"}, {"key_file": "~/b"}], "Several"),
    ],
)
def test_a_key_comes_from_where_it_is_said_to_be(server, key, kind):
    """Profiles: every source of keys has its way to be written down."""
    store = profile_for(server, key=key).open_store()
    assert type(store._source).__name__ == kind


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "holds no settings"),
        ("[]", "holds no settings"),
        ('{"format": "another"}', "holds no settings"),
        ('{"version": 2}', "is of version 2 and this release reads 1"),
        ('{"name": "work"}', "missing"),
        ('{"name": "work", "origins": "https://a.example", "grant": {}}', "origins is a list"),
        ('{"name": "work", "origins": [7], "grant": {}}', "origins is a list"),
        ('{"name": "work", "origins": [], "grant": {}, "extra": 1}', "no such field as 'extra'"),
        ('{"name": "other", "origins": [], "grant": {}}', "it was copied"),
        ('{"name": "work", "origins": [], "grant": {"client_secret": "x"}}', "not written"),
    ],
)
def test_settings_that_cannot_be_used_are_said(content, said):
    """Profiles: one error that names the profile or its file, and why."""
    path = paths.settings_file("work")
    private_files.make_directories(os.path.dirname(path))
    if content.startswith('{"'):
        fields = {"format": "requests-silent-refresh profile", "version": 1, **json.loads(content)}
        content = json.dumps(fields)
    private_files.write_private(path, content.encode())
    with pytest.raises(ProfileError, match=said):
        profiles.load("work")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grant": {"kind": "magic"}}, "its kind is one of"),
        ({"grant": refresh_grant(wrong=1)}, "wrong"),
        ({"grant": refresh_grant(client_secret={"file": "x", "y": 1})}, "no such field"),
        ({"grant": refresh_grant(), "store": {"kind": "tape"}}, "its kind is file, redis or sql"),
        ({"grant": refresh_grant(), "store": {"kind": "file", "x": 1}}, "no such field as 'x'"),
        ({"grant": refresh_grant(), "origins": []}, "at least one origin"),
        ({"grant": refresh_grant(), "adapter_options": {"colour": 1}}, "colour"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_said_at_first_use(fields, said):
    """Profiles: a wrong argument is a ProfileError that names the profile."""
    profile = Profile("work", **{"origins": ["https://api.example.com"], **fields})
    with pytest.raises(ProfileError, match=f"the profile 'work' cannot be used: .*{said}"):
        profile.mount_on(requests.Session())


def test_settings_that_are_a_link_are_refused(tmp_path):
    """P12: a planted link could send tokens to another origin."""
    path = paths.settings_file("work")
    private_files.make_directories(os.path.dirname(path))
    os.symlink(tmp_path / "elsewhere", path)
    (tmp_path / "elsewhere").write_text("{}")
    with pytest.raises(ProfileError, match="symbolic link"):
        profiles.load("work")


# Sign-ins.


def test_a_running_script_adopts_the_next_sign_in(server):
    """P9: whoever runs goes on with the new session, without a restart."""
    running = signed_in(server)
    assert running.manager.token()
    profiles.load("work").manager.sign_out()
    with pytest.raises(SessionExpired):
        running.manager.renew(running.manager.token())
    signed_in(server)
    assert running.manager.signed_in
    assert running.manager.token()


def test_tokens_of_another_client_are_another_session(server):
    """Sign-in: settings and session change together; the profile as it was is handed back."""
    old = signed_in(server)
    token = server.sign_in_token()
    grant = refresh_grant(server.token_endpoint, client_id="another")
    left = changes.sign_in(profile_for(server, grant=grant), token)
    assert left is not None
    assert left.identity == old.identity
    assert left.place != profiles.load("work").place
    assert old.manager.signed_in
    assert changes.sign_in(profile_for(server, grant=grant), server.sign_in_token()) is None


def test_a_session_of_another_client_in_the_same_place_is_wiped_first(server, tmp_path):
    """P11: a token never meets another server's settings, not even between two steps."""
    store = {"kind": "file", "path": str(tmp_path / "tokens")}
    signed_in(server, store=store)
    seen = []
    call = private_files.call

    def watch(function, *arguments, **options):
        if function is os.replace:
            seen.append((profiles.load("work").grant["client_id"], state_of(tmp_path)))
        return call(function, *arguments, **options)

    grant = refresh_grant(server.token_endpoint, client_id="another")
    private_files.call = watch
    try:
        changes.sign_in(profile_for(server, grant=grant, store=store), server.sign_in_token())
    finally:
        private_files.call = call
    assert seen == [("client", True), ("client", False), ("another", False)]
    assert state_of(tmp_path) is True


def state_of(tmp_path):
    """Say whether the store at ``tmp_path`` holds a session."""
    key = profiles.load("work").open_store()._source
    return EncryptedFileStore(tmp_path / "tokens", key).load().token is not None


# Runs in a process of its own. At each system call of a sign-in it is killed there (in a
# child), or refused there with a full disk; then looks what a newcomer finds.
ATTACKER = """
import json, os, sys
from file_faults import fail_with, kill, tapped
from requests_silent_refresh import RefreshTokenGrant, SilentRefreshError, Token, profiles
from requests_silent_refresh.profiles import Profile, changes, paths

way, how, folder = sys.argv[1:]

def profile(client_id):
    grant = {"kind": "refresh_token", "token_endpoint": "https://auth.example.com/token"}
    store = {"kind": "file"}
    if way == "same place":
        store["path"] = folder + "/tokens"
    return Profile("work", ["https://a.example"], {**grant, "client_id": client_id}, store)

def found():
    now = profiles.load("work")
    token = now.open_store().load().token
    return now.grant["client_id"], None if token is None else token.access_token.reveal()

old, new = "client", "client" if way == "same client" else "another"
point = 0
while True:
    point += 1
    changes.sign_in(profile(old), Token("old", "old-refresh"))
    if how == "kill":
        child = os.fork()
        if child == 0:
            with tapped(point, kill):
                changes.sign_in(profile(new), Token("new", "new-refresh"))
            os._exit(0)
        done = not os.WIFSIGNALED(os.waitpid(child, 0)[1])
        over = done
    else:
        done = False
        with tapped(point, fail_with(28)) as tap:
            try:
                changes.sign_in(profile(new), Token("new", "new-refresh"))
                done = True
            except (SilentRefreshError, OSError):
                pass
        over = len(tap.calls) < point
        assert not os.path.exists(paths.settings_file("work") + ".new"), point
    print(json.dumps([done, *found()]), flush=True)
    if over:
        break
"""


@pytest.mark.skipif(os.name == "nt", reason="processes fork here")
@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.parametrize("way", ["same client", "another client", "same place"])
def test_a_sign_in_is_whole_or_has_not_happened(home, way, how):  # noqa: F811
    """P5: killed, or out of room, at any system call: the old settings and session, or the new.

    Where the session of another client lies in the same place it may have been wiped; a token
    never meets the settings of another client.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", ATTACKER, way, how, home],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = [tuple(json.loads(line)) for line in ran.stdout.splitlines()]
    new = "client" if way == "same client" else "another"
    whole = {("client", "old"), (new, "new")}
    if way == "same place":
        whole |= {("client", None), ("another", None)}
    assert {(client, token) for _, client, token in found} <= whole
    assert all(token == "new" for done, _, token in found if done)
    assert found[-1][0] is True
    assert len(found) > 30


def session_of(name):
    """Return a profile's client and access token, as another process would find them."""
    profile = profiles.load(name)
    state = profile.open_store().load()
    return profile.grant["client_id"], state.token.access_token.reveal()


def test_of_two_sign_ins_at_once_the_last_one_wins_whole(server):
    """Sign-in: whatever the interleaving, settings and session are of one sign-in."""
    tokens = {f"client {n}": server.sign_in_token() for n in range(8)}
    barrier = threading.Barrier(8)

    def go(client_id):
        grant = refresh_grant(server.token_endpoint, client_id=client_id)
        barrier.wait()
        changes.sign_in(profile_for(server, grant=grant), tokens[client_id])

    threads = [threading.Thread(target=go, args=(client_id,)) for client_id in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client_id, access_token = session_of("work")
    assert tokens[client_id].access_token.reveal() == access_token


def test_a_forgotten_profile_is_gone(server):
    """Sign-out: settings and kept secret are removed."""
    grant = refresh_grant(server.token_endpoint, client_secret={"kept": "client_secret-1"})
    Kept("work", "client_secret-1").keep("x")
    changes.sign_in(profile_for(server, grant=grant), server.sign_in_token())
    changes.rotate_kept(profiles.load("work"))
    changes.forget(profiles.load("work"))
    assert profiles.listed() == []
    with pytest.raises(LookupError):
        Kept("work", "client_secret-1")()


def test_wiping_what_is_refreshed_meanwhile_wipes_the_newer_state(server):
    """P4: a rotation between the look and the wipe does not bring the session back."""
    store = signed_in(server).open_store()
    load, raced = store.load, []

    def load_and_be_overtaken():
        state = load()
        if not raced:
            raced.append(store.save(server.sign_in_token(), after=state))
        return state

    store.load = load_and_be_overtaken
    changes.wipe(store)
    assert load().token is None
    assert raced


@pytest.mark.parametrize(
    ("token", "subject"),
    [
        (Token("a"), None),
        (Token("a", extra={"id_token": "x.eyJzdWIiOiAiYW5uIn0."}), "ann"),
        (Token("x.eyJzdWIiOiAiYW5uIn0.y"), "ann"),
        (Token("a", extra={"id_token": "x.!!!.y"}), None),
        (Token("a", extra={"id_token": "x.W10.y"}), None),
        (Token("a", extra={"id_token": 7}), None),
        (Token("a", extra={"id_token": "x.eyJzdWIiOiAiXHUwMDFiIn0."}), None),
        (
            Token("a", extra={"id_token": "x.eyJzdWIiOiAiMSIsICJlbWFpbCI6ICJhQGIuYyJ9."}),
            "a@b.c",
        ),
    ],
)
def test_the_subject_is_read_where_it_is_known(token, subject):
    """Status: who signed in, for people to read; what cannot be printed is passed over."""
    assert changes.subject_of(token) == subject


def test_loading_a_profile_asks_for_no_lock(server):
    """P14: settings and state are read while somebody holds both locks."""
    profile = signed_in(server)
    with profile.open_store().exclusive(1), changes._alone("work"):
        began = time.monotonic()
        assert profiles.load("work").manager.signed_in
        assert time.monotonic() - began < 5
