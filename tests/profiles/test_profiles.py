"""Profiles: names, settings without secrets, and sign-ins that happen completely or not at all."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest
import requests
from file_faults import tapped
from hypothesis import given
from hypothesis import strategies as st
from signing_in import (
    every_lock_held,
    files_in,
    home,  # noqa: F401 (a fixture)
    keyring_in_memory,  # noqa: F401 (a fixture)
    run,
    send_through_ten_expiries,
)

from requests_silent_refresh import (
    ClientCredentialsGrant,
    EncryptedFileStore,
    JSONRefresh,
    RefreshFailed,
    SessionExpired,
    Token,
    keys,
    profiles,
)
from requests_silent_refresh.keys import generate_key
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
    """Names: any name gets a plain file name, and two spellings of a name get the same one."""
    assert names.to_file_name(name) == file
    assert names.from_file_name(file) == names.normal(name)


SAFE = frozenset(string.ascii_lowercase + string.digits + "-_=")

printable = st.text(min_size=1, max_size=15).filter(
    lambda text: text.strip() and unicodedata.normalize("NFC", text.strip()).isprintable()
)


@given(printable, printable)
def test_names_never_collide_and_are_reversible(one, other):
    """Names: reversible, and free of collisions even on a case-insensitive file system."""
    file = names.to_file_name(one)
    assert set(file) <= SAFE
    assert names.from_file_name(file) == names.normal(one)
    same = names.normal(one) == names.normal(other)
    assert (file.casefold() == names.to_file_name(other).casefold()) == same


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "a\x1b[2J", "\x00", "x" * 500, "\udcff", "\u202ework", None, 7]
)
def test_invalid_names_are_refused(name):
    """Names: an empty, too long or unprintable name is a ValueError that says so."""
    with pytest.raises(ValueError, match="a profile"):
        names.to_file_name(name)


@pytest.mark.parametrize("file", ["Work", "=2", "=zz", "wo rk", "a.b", "=77ork", "=ff", ""])
def test_other_files_are_not_profiles(file):
    """Names: a file name that this package would not have written is not a profile's."""
    assert names.from_file_name(file) is None


def test_profiles_are_listed_by_name(server):
    """Names: the list is sorted, and other files are skipped."""
    assert profiles.listed() == []
    for name in ("b", "A b", "a"):
        profile_for(server, name).save()
    directory = paths.settings_directory()
    for stray in ("README", "X.json", "work.json.new"):
        with open(os.path.join(directory, stray), "w") as file:
            file.write("{}")
    assert profiles.listed() == ["A b", "a", "b"]


# Use in a script.


def test_a_script_needs_one_line(server):
    """Profiles: ``profiles.load(NAME).mount_on(session)`` is enough, for ten expiries (P1)."""
    signed_in(server)
    with requests.Session() as session:
        send_through_ten_expiries(server, session)


def test_an_unused_manager_can_sign_out(server):
    """Sign-out: a process that does nothing else still revokes and wipes the tokens."""
    signed_in(server).manager.sign_out()
    assert profiles.load("work").manager.signed_in is False
    assert server.counters.revocations == 1


def test_an_unknown_profile_names_the_command(server):
    """Profiles: the error says how to create the profile."""
    with pytest.raises(ProfileError, match="silent-refresh sign-in 'my work' --issuer"):
        profiles.load("my work")


@pytest.mark.parametrize(
    ("name", "command"), [("work", "sign-in work"), ("-x y", "sign-in -- '-x y'")]
)
def test_an_ended_session_names_the_command_to_sign_in(server, name, command):
    """P9: a profile's SessionExpired names the command, at the first and each later request."""
    profile = signed_in(server, name)
    with requests.Session() as session:
        profile.mount_on(session)
        assert session.get(server.resource).ok
        profiles.load(name).manager.sign_out()
        for _ in range(2):
            with pytest.raises(SessionExpired, match=f"run silent-refresh {command}$"):
                session.get(server.resource)


def test_a_refused_refresh_names_the_command_to_sign_in(server):
    """P9: the server's refusal is followed by the command to sign in."""
    profile = signed_in(server)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with pytest.raises(SessionExpired, match=r"\(invalid_grant\); run silent-refresh sign-in work"):
        profile.manager.renew(profile.manager.token())


def test_client_credentials_and_json_are_grants_too(monkeypatch):
    """Profiles: any grant, with the arguments of its class."""
    monkeypatch.setenv("TEST_SECRET", "s3cret")
    with AuthorizationServer(client_secret="s3cret") as server:
        grant = {
            "kind": "client_credentials",
            "token_endpoint": server.token_endpoint,
            "client_id": "client",
            "client_secret": {"environment": "TEST_SECRET"},
        }
        machine = profile_for(server, "machine", grant=grant)
        assert isinstance(machine.make_grant(), ClientCredentialsGrant)
        assert machine.manager.token().access_token
        shop = signed_in(
            server, "shop", grant={"kind": "json", "url": server.json_endpoint + "/flat"}
        )
        assert isinstance(shop.make_grant(), JSONRefresh)
        assert shop.manager.renew(shop.manager.token())


def test_any_store_can_be_named(server, tmp_path):
    """Profiles: a file elsewhere, SQL and Redis, with a given key."""
    key = {"key_file": str(tmp_path / "fleet.key"), "make": True}
    elsewhere = signed_in(server, store={"kind": "file", "path": str(tmp_path / "t" / "tokens")})
    assert elsewhere.place == str(tmp_path / "t" / "tokens")
    assert elsewhere.manager.signed_in
    pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    signed_in(server, "sql", store={"kind": "sql", "url": url, "name": "x"}, key=key)
    done = run("refresh", "sql")
    assert (done.code, done.err) == (0, "")
    assert server.counters.granted == 1
    pytest.importorskip("redis")
    redis = profile_for(
        server, store={"kind": "redis", "url": {"environment": "REDIS_URL"}}, key=key
    )
    assert "RedisStore" in repr(redis.open_store())
    assert "REDIS_URL" in redis.place


def test_adapter_options_reach_the_adapter(server):
    """Profiles: the token is sent in the header that the settings name."""
    signed_in(server, adapter_options={"header": "X-Token", "scheme": ""})
    with requests.Session() as session:
        profiles.load("work").mount_on(session)
        seen = session.get(server.url + "/open").json()["headers"]
    assert seen["x-token"].startswith("at-")


# Settings.


def test_settings_are_a_private_file_without_secrets(home):  # noqa: F811
    """P12: mode 0600; no file contains tokens or a typed secret in plain text."""
    with AuthorizationServer(client_secret="typed s3cret") as server:
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
        assert profiles.load("work").make_grant()(token).access_token, "the secret was sent"


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
    """P12: a literal secret is refused, and the message does not contain it."""
    with pytest.raises(ValueError, match="must not be stored in settings") as caught:
        Profile("work", ["https://api.example.com"], **fields)
    assert "hunter2" not in str(caught.value)


def test_a_literal_key_is_not_used(server):
    """P12: a literal encryption key is refused, too."""
    with pytest.raises(ProfileError, match="a key must not be stored in settings"):
        profile_for(server, key="A" * 43 + "=").open_store()


@pytest.mark.parametrize(
    "reference",
    [
        {"environment": "TEST_SECRET"},
        {"file": "secret"},
        {"keyring": "service", "account": "account"},
        {"kept": "client_secret-1"},
    ],
)
def test_a_secret_is_read_at_each_exchange(
    reference,
    keyring_in_memory,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """P12: from environment, file, keyring, or the profile's own kept secret."""

    def put(secret):
        if "environment" in reference:
            monkeypatch.setenv("TEST_SECRET", secret)
        elif "file" in reference:
            (tmp_path / "secret").write_text(secret + "\n")
        elif "keyring" in reference:
            keyring_in_memory.set_password("service", "account", secret)
        else:
            Kept("work", "client_secret-1").keep(secret)

    monkeypatch.chdir(tmp_path)
    with AuthorizationServer(client_secret="right") as server:
        token = server.sign_in_token()
        settings = refresh_grant(server.token_endpoint, client_secret=reference)
        grant = profile_for(server, grant=settings).make_grant()
        put("wrong")
        with pytest.raises(RefreshFailed, match="invalid_client"):
            grant(token)
        put("right")
        assert grant(token).access_token


@pytest.mark.usefixtures("keyring_in_memory")
def test_a_secret_missing_from_the_keyring_is_named(server):
    """P12: the error names account and service."""
    settings = refresh_grant(server.token_endpoint, client_secret={"keyring": "nobody"})
    with pytest.raises(RefreshFailed) as caught:
        profile_for(server, grant=settings).make_grant()(server.sign_in_token())
    assert isinstance(caught.value.__cause__, LookupError)
    assert "no secret for account 'work' of service 'nobody'" in str(caught.value)


def test_a_secret_that_is_no_longer_kept_is_reported():
    """Profiles: the message names the option that keeps it again."""
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
    with pytest.raises(ValueError, match="cannot name a kept secret"):
        Kept("work", "../../x")


KEY = keys.generate_key()


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ({"key_file": "a", "make": True}, lambda: keys.KeyFile("a")),
        ({"passphrase": {"environment": "TEST_KEY"}}, lambda: keys.Passphrase(KEY)),
        ({"keyring": "silent-refresh"}, lambda: keys.KeyringKey("silent-refresh", "key of work")),
        ({"keyring": "x", "account": "y"}, lambda: keys.KeyringKey("x", "y")),
        ({"environment": "TEST_KEY"}, lambda: KEY),
        ([{"environment": "TEST_KEY"}, {"key_file": "b"}], lambda: KEY),
    ],
)
@pytest.mark.usefixtures("keyring_in_memory")
def test_a_key_comes_from_its_reference(server, key, source, tmp_path, monkeypatch):
    """Profiles: each source of keys can be named, and encrypts; the first of several does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    keys.KeyFile("b", make=True).add_key()
    profile = signed_in(server, key=key)
    assert EncryptedFileStore(profile.place, source()).load().token.access_token


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "does not contain a profile's settings"),
        ("[]", "does not contain a profile's settings"),
        ('{"format": "another"}', "does not contain a profile's settings"),
        ('{"version": 2}', "has version 2, but this release reads version 1"),
        ('{"name": "work"}', "missing"),
        ('{"name": "work", "origins": "https://a.example", "grant": {}}', "origins must be a list"),
        ('{"name": "work", "origins": [7], "grant": {}}', "origins must be a list"),
        ('{"name": "work", "origins": [], "grant": {}, "extra": 1}', "unknown field 'extra'"),
        ('{"name": "other", "origins": [], "grant": {}}', "it was copied"),
        ('{"name": "work", "origins": [], "grant": {"client_secret": "x"}}', "must not be stored"),
    ],
)
def test_unusable_settings_are_reported(content, message):
    """Profiles: one error that names the profile or its file, and the reason."""
    path = paths.settings_file("work")
    private_files.make_directories(os.path.dirname(path))
    if content.startswith('{"'):
        fields = {"format": "requests-silent-refresh profile", "version": 1, **json.loads(content)}
        content = json.dumps(fields)
    private_files.write_private(path, content.encode())
    with pytest.raises(ProfileError, match=message):
        profiles.load("work")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grant": {"kind": "magic"}}, "kind must be one of"),
        ({"grant": refresh_grant(wrong=1)}, "wrong"),
        ({"grant": refresh_grant(client_secret={"file": "x", "y": 1})}, "unknown fields: y"),
        ({"grant": refresh_grant(), "store": {"kind": "tape"}}, "kind must be file, redis or sql"),
        ({"grant": refresh_grant(), "store": {"kind": "file", "x": 1}}, "unknown field 'x'"),
        ({"grant": refresh_grant(), "origins": []}, "at least one origin"),
        ({"grant": refresh_grant(), "adapter_options": {"colour": 1}}, "colour"),
    ],
)
def test_an_invalid_profile_is_reported_at_first_use(fields, message):
    """Profiles: an invalid argument is a ProfileError that names the profile."""
    profile = Profile("work", **{"origins": ["https://api.example.com"], **fields})
    with pytest.raises(ProfileError, match=f"the profile 'work' cannot be used: .*{message}"):
        profile.mount_on(requests.Session())


def test_settings_behind_a_symbolic_link_are_refused(tmp_path):
    """P12: a planted link could send tokens to another origin."""
    path = paths.settings_file("work")
    private_files.make_directories(os.path.dirname(path))
    os.symlink(tmp_path / "elsewhere", path)
    (tmp_path / "elsewhere").write_text("{}")
    with pytest.raises(ProfileError, match="symbolic link"):
        profiles.load("work")


# Sign-ins.


def test_a_running_script_adopts_the_next_sign_in(server):
    """P9: it continues with the new session, without a restart."""
    running = signed_in(server)
    assert running.manager.token()
    profiles.load("work").manager.sign_out()
    with pytest.raises(SessionExpired):
        running.manager.renew(running.manager.token())
    signed_in(server)
    assert running.manager.signed_in
    assert running.manager.token()


def test_tokens_of_another_client_are_another_session(server):
    """Sign-in: settings and session change together; the old profile is returned."""
    old = signed_in(server)
    token = server.sign_in_token()
    grant = refresh_grant(server.token_endpoint, client_id="another")
    earlier = changes.sign_in(profile_for(server, grant=grant), token)
    assert earlier is not None
    assert earlier.profile.identity == old.identity
    assert earlier.profile.place != profiles.load("work").place
    assert earlier.token is None
    assert old.manager.signed_in
    again = changes.sign_in(profile_for(server, grant=grant), server.sign_in_token())
    assert again is not None
    assert again.token is not None
    assert again.token.access_token.reveal() == token.access_token.reveal()


def test_a_session_of_another_client_in_the_same_place_is_wiped_first(server, tmp_path):
    """P11: a token is never combined with another server's settings, not even between steps."""
    store = {"kind": "file", "path": str(tmp_path / "tokens")}
    signed_in(server, store=store)
    seen = []

    def stored():
        profile = profiles.load("work")
        return profile.grant["client_id"], profile.open_store().load().token is not None

    grant = refresh_grant(server.token_endpoint, client_id="another")
    with tapped("replace", lambda call: seen.append(stored())):
        changes.sign_in(profile_for(server, grant=grant, store=store), server.sign_in_token())
    assert seen == [("client", True), ("client", False), ("another", False)]
    assert stored() == ("another", True)


# Runs in a separate process. At each system call of a sign-in, it kills a child there or lets
# the call fail with a full disk; then it prints what another process would find.
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
        finished = done
    else:
        done = False
        with tapped(point, fail_with(28)) as tap:
            try:
                changes.sign_in(profile(new), Token("new", "new-refresh"))
                done = True
            except (SilentRefreshError, OSError):
                pass
        finished = len(tap.calls) < point
        assert not os.path.exists(paths.settings_file("work") + ".new"), point
    print(json.dumps([done, *found()]), flush=True)
    if finished:
        break
"""


@pytest.mark.skipif(os.name == "nt", reason="processes fork here")
@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.parametrize("way", ["same client", "another client", "same place"])
def test_a_sign_in_happens_completely_or_not_at_all(home, way, how):  # noqa: F811
    """P5: after a kill or a full disk at any system call, settings and session are old or new.

    If the session of another client is stored in the same place, it may have been wiped; a
    token is never combined with the settings of another client.
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


def test_concurrent_sign_ins_are_not_mixed(server):
    """Sign-in: settings and session are always those of one and the same sign-in."""
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
    """Sign-out: forgetting a profile removes its settings and its kept secret."""
    grant = refresh_grant(server.token_endpoint, client_secret={"kept": "client_secret-1"})
    Kept("work", "client_secret-1").keep("x")
    changes.sign_in(profile_for(server, grant=grant), server.sign_in_token())
    changes.rotate_kept(profiles.load("work"))
    changes.forget(profiles.load("work"))
    assert profiles.listed() == []
    with pytest.raises(LookupError):
        Kept("work", "client_secret-1")()


def test_a_wipe_during_a_refresh_wipes_the_newer_state(server):
    """P4: a rotation between the load and the wipe does not bring the session back."""
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
def test_the_subject_is_read_from_the_tokens(token, subject):
    """Status: who signed in, for people to read; an unprintable claim is ignored."""
    assert changes.subject_of(token) == subject


def test_loading_a_profile_takes_no_lock(server, home):  # noqa: F811
    """P14: settings and state are read while every lock of the profile is held."""
    profile = signed_in(server)
    with profile.open_store().exclusive(1):
        pass  # creates the lock file that a refresh uses
    with every_lock_held(home) as names:
        began = time.monotonic()
        assert profiles.load("work").manager.signed_in
        assert time.monotonic() - began < 5
    tokens = Path(profile.place).name
    assert {"work.json.lock", f"{tokens}.lock", f"{tokens}.write.lock"} <= names


def test_a_sign_in_with_another_key_replaces_the_session(server, monkeypatch):
    """What is stored is read with the key of the earlier settings, and ended."""
    monkeypatch.setenv("TEST_KEY", generate_key())
    signed_in(server)
    new = profile_for(server, key={"environment": "TEST_KEY"})
    changes.check(new)
    replaced = changes.sign_in(new, server.sign_in_token())
    assert replaced is not None
    assert replaced.token is not None
    assert profiles.load("work").manager.signed_in
