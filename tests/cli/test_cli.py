"""``silent-refresh``: each command, its exit codes and its one-line errors."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from file_faults import fail_with, tapped
from programs import find
from signing_in import (
    PATIENCE,
    ROOT,
    Done,
    Terminal,
    answer,
    come_back,
    every_lock_held,
    files_in,
    home,  # noqa: F401 (a fixture)
    one_line,
    run,
    send_through_ten_expiries,
    set_up,
    sign_in,
)

from requests_silent_refresh import (
    RefreshTimeout,
    SessionExpired,
    StoreCorrupted,
    StoreUnavailable,
    Token,
    WrongKey,
    cli,
    profiles,
)
from requests_silent_refresh.cli import exits
from requests_silent_refresh.cli.times import since, span, until
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.profiles import Profile, changes, paths
from requests_silent_refresh.testing import Answer, AuthorizationServer

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
            code = cli.main(arguments)
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def work(server):
    """A profile that is signed in."""
    changes.sign_in(profile(server), server.sign_in_token(scope="read"))
    return profiles.load("work")


def profile(server, name="work", **fields):
    grant = {
        "kind": "refresh_token",
        "token_endpoint": server.token_endpoint,
        "client_id": "client",
        "revocation_endpoint": server.revocation_endpoint,
    }
    return Profile(name, [server.url], fields.pop("grant", grant), **fields)


def failed(result, code):
    """Check that a command failed with ``code`` and one line on stderr, and return that line."""
    assert result[0] == code, result
    (line,) = result[2].splitlines()
    assert line.startswith("silent-refresh: ")
    return line


# From signing in to signing out.


def test_from_sign_in_to_sign_out(server):
    """Sign-in, ten expiries in a script, sign-out, and the command to sign in again."""
    done = sign_in(server, "work", "--scope", "openid read")
    assert "Signed in to work as ann." in done.out
    with requests.Session() as session:
        send_through_ten_expiries(server, session)
        done = run("sign-out", "work")
        assert (done.code, done.out, done.err) == (0, "Signed out of work.\n", "")
        with pytest.raises(SessionExpired, match=r"run silent-refresh sign-in work$"):
            session.get(server.resource)
    assert run("token", "work").code == exits.SIGNED_OUT
    # The settings of the first sign-in are not needed again.
    terminal = Terminal("sign-in", "work")
    answer(terminal.find(r"http\S+/authorize\S+"))
    assert terminal.finish().code == 0
    assert profiles.load("work").manager.signed_in


def test_a_browser_is_opened_if_there_is_one(server, tmp_path):
    """Sign-in: $BROWSER is started with the URL, whatever program it names."""
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!{sys.executable}\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from signing_in import answer; answer(sys.argv[1])\n"
    )
    browser.chmod(0o700)
    done = run("sign-in", "work", *set_up(server), BROWSER=f"{browser} %s")
    assert done.code == 0, done
    assert "Opening a browser. If none opens, visit:" in done.out
    assert "Signed in to work." in done.out


@pytest.mark.parametrize("browser", ["/does/not/exist %s", "false"])
def test_a_sign_in_works_if_the_browser_cannot_be_opened(server, browser):
    """Sign-in: the URL is printed, so a person can open it elsewhere."""
    terminal = Terminal("sign-in", "work", *set_up(server), BROWSER=browser)
    answer(terminal.find(r"http\S+/authorize\S+"))
    assert terminal.finish().code == 0


def test_a_device_is_signed_in_from_another_one(server):
    """Sign-in: the code is shown; entering it on another device signs this machine in."""
    server.authorizations.device_interval = 0.1
    terminal = Terminal("sign-in", "work", "--device", *set_up(server))
    code = terminal.find(r"[A-Z]{4}-[A-Z]{4}")
    assert server.authorizations.decide(code, "ann")
    done = terminal.finish()
    assert (done.code, done.err) == (0, "")
    assert server.url + "/device" in done.out
    assert profiles.load("work").sign_in["method"] == "device"


def test_a_client_signs_itself_in(server, tmp_path):
    """Sign-in: client credentials need no person, and the secret is given by reference."""
    with AuthorizationServer(client_secret="s3cret") as server:
        options = [*set_up(server), "--scope", "a b", "--client-credentials"]
        secret = "environment:TEST_SECRET"
        done = run("sign-in", "bot", *options, "--client-secret", secret, TEST_SECRET="s3cret")
        assert done.code == 0, done
        kept = profiles.load("bot")
        assert kept.grant["client_secret"] == {"environment": "TEST_SECRET"}
        assert kept.open_store().load().token.scope == ("a", "b")
        (tmp_path / "secret").write_text("s3cret\n")
        secret = f"file:{tmp_path / 'secret'}"
        assert run("sign-in", "bot", "--client-secret", secret).code == 0
        assert run("token", "bot").out.startswith("at-")
        assert run("refresh", "bot").code == 0
        refused = run("sign-in", "bot", "--client-secret", secret, TEST_SECRET="wrong")
        assert refused.code == 0
        (tmp_path / "secret").write_text("wrong")
        assert "invalid_client" in one_line(run("sign-in", "bot"))


def test_a_typed_secret_is_kept_encrypted(home):  # noqa: F811
    """P12: --client-secret ask reads it from standard input; no file contains it in plain text."""
    with AuthorizationServer(client_secret="s3cret") as server:
        options = [*set_up(server), "--client-credentials", "--client-secret", "ask"]
        assert run("sign-in", "bot", *options, stdin="s3cret\n").code == 0
        first = profiles.load("bot").grant["client_secret"]
        assert run("refresh", "bot").code == 0
        assert not [name for name, content in files_in(home).items() if b"s3cret" in content]
        # A wrong secret changes nothing; a new one replaces the old one.
        wrong = run("sign-in", "bot", "--client-secret", "ask", stdin="wrong\n")
        assert "invalid_client" in one_line(wrong)
        assert run("refresh", "bot").code == 0
        running = profiles.load("bot").manager
        token = running.token()
        assert run("sign-in", "bot", "--client-secret", "ask", stdin="s3cret\n").code == 0
        assert profiles.load("bot").grant["client_secret"] == first
        assert running.renew(token) is not token, "a running script finds the new secret"
        assert run("rotate-key", "bot").code == 0
        assert run("refresh", "bot").code == 0
        done = run("sign-out", "bot", "--forget")
        assert (done.code, done.out) == (0, "Signed out of bot, and removed its settings.\n")
        assert profiles.listed() == []


def test_a_typed_secret_needs_the_key_of_the_profile(home, monkeypatch):  # noqa: F811
    """P12: with --key the files of the home directory alone do not reveal it."""
    monkeypatch.setenv("TEST_KEY", generate_key())
    with AuthorizationServer(client_secret="s3cret") as server:
        options = [*set_up(server), "--client-credentials", "--client-secret", "ask"]
        key = ["--key", "environment:TEST_KEY"]
        assert run("sign-in", "bot", *options, *key, stdin="s3cret\n").code == 0
        assert run("refresh", "bot").code == 0
        monkeypatch.setenv("TEST_KEY", generate_key())
        assert run("refresh", "bot").code == exits.SETUP
        # Another key takes another file, and the old one goes.
        again = [*options, "--key", "passphrase-environment:TEST_PHRASE"]
        monkeypatch.setenv("TEST_PHRASE", "a long enough passphrase")
        assert run("sign-out", "bot", "--forget").code == 0
        assert run("sign-in", "bot", *again, stdin="s3cret\n").code == 0
        assert run("refresh", "bot").code == 0


def test_another_client_ends_the_session_of_the_first(server, work, command):
    """Sign-in: the profile's tokens from the earlier server are revoked and wiped."""
    with AuthorizationServer() as other:
        terminal = Terminal("sign-in", "work", *set_up(other))
        answer(terminal.find(r"http\S+/authorize\S+"))
        done = terminal.finish()
        assert done.code == 0, done
        assert "The profile's earlier session was ended." in done.out
        assert server.counters.revocations == 1
        assert work.open_store().load().token is None
        assert profiles.load("work").origins == (other.url,)


# Failed sign-ins: one line, and no file is changed.


@pytest.fixture
def nothing_changes(home, server):  # noqa: F811
    """Check that the test leaves every file unchanged."""
    changes.sign_in(profile(server, "other"), server.sign_in_token())
    before = files_in(home)
    yield
    assert files_in(home) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": None, "error": "access_denied"}, "denied in the browser"),
        ({"iss": "https://evil.example"}, "names the issuer 'https://evil.example'"),
        ({"iss": None}, "names no issuer"),
    ],
)
@pytest.mark.usefixtures("nothing_changes")
def test_a_wrong_answer_from_the_browser_is_reported(server, fields, message):
    """Sign-in: one clear line, exit code 6, and no file is changed."""
    terminal = Terminal("sign-in", "work", *set_up(server))
    come_back(terminal.find(r"http\S+/authorize\S+"), **{"iss": server.issuer, **fields})
    done = terminal.finish()
    assert done.code == exits.NOT_COMPLETED
    assert message in one_line(done)


@pytest.mark.usefixtures("nothing_changes")
def test_a_denied_or_expired_device_code_is_reported(server):
    """Sign-in: both end with one clear line and exit code 6."""
    server.authorizations.device_interval = 0.05
    terminal = Terminal("sign-in", "work", "--device", *set_up(server))
    server.authorizations.decide(terminal.find(r"[A-Z]{4}-[A-Z]{4}"), None)
    done = terminal.finish()
    assert done.code == exits.NOT_COMPLETED
    assert "denied on the other device" in one_line(done)
    server.authorizations.device_code_lifetime = 0.2
    done = run("sign-in", "work", "--device", *set_up(server))
    assert done.code == exits.NOT_COMPLETED
    assert "nobody entered the code before it expired" in one_line(done)


@pytest.mark.usefixtures("nothing_changes")
def test_a_port_in_use_is_reported(server, command):
    """Sign-in: the line names the port, and the option that helps."""
    port = server.url.rpartition(":")[2]
    taken = f"http://127.0.0.1:{port}/callback"
    line = failed(command("sign-in", "work", *set_up(server), "--redirect-uri", taken), 6)
    assert f"port {port} of 127.0.0.1 is taken" in line
    assert "--redirect-uri" in line


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--issuer", "{url}/other", "--client-id", "c", "--origin", "{url}"], 4, "no metadata"),
        (["--issuer", "{url}", "--client-id", "c"], 2,
         "--origin (the server that may receive the token): missing"),
        ([], 2, "--issuer (or --token-endpoint, for other servers), --client-id, --origin"),
        (["--issuer", "{url}", "--client-id", "c", "--origin", "{url}", "--origin", "a.example"],
         2, "'a.example' is not an origin"),
        (["--issuer", "{url}", "--client-id", "c", "--origin", "http://a.example"], 4, "https"),
        (["--issuer", "{url}", "--client-id", "c", "--origin", "{url}", "--parameter", "state=x"],
         2, "--parameter state: the sign-in sets it itself"),
        (["--issuer", "{url}", "--client-id", "c", "--origin", "{url}", "--timeout", "nan"], 2,
         "not a number of seconds"),
        (["--issuer", "no url", "--client-id", "c", "--origin", "{url}"], 4, "not a valid issuer"),
        (["--issuer", "http://a.example", "--client-id", "c", "--origin", "{url}"], 4, "use https"),
        (
            ["--token-endpoint", "{url}/token", "--client-id", "c", "--origin", "{url}"],
            2,
            "no authorization endpoint",
        ),
        (
            ["--token-endpoint", "{url}/t", "--client-id", "c", "--origin", "{url}", "--device"],
            2,
            "no device authorization endpoint",
        ),
        (
            ["--json-refresh", "{url}/json", "--origin", "{url}"],
            2,
            "no sign-in for a JSON API: use silent-refresh import",
        ),
        (["--client-secret", "hunter2", "--origin", "{url}"], 2, "takes no secret"),
        (["--client-secret", "environment:", "--origin", "{url}"], 2, "takes no secret"),
        (["--store", "tape:x", "--issuer", "{url}", "--client-id", "c", "--origin", "{url}"], 2,
         "--store takes"),
        (["--store", "environment:TEST_UNSET", "--issuer", "{url}", "--client-id", "c",
          "--origin", "{url}"], 2, "TEST_UNSET is not set"),
        (["--key", "hunter2", "--issuer", "{url}", "--client-id", "c", "--origin", "{url}"], 2,
         "takes no secret"),
        (["--parameter", "audience", "--origin", "{url}"], 2, "--parameter takes NAME=VALUE"),
        (["--grant-option", "colour=red", "--issuer", "{url}", "--client-id", "c", "--origin",
          "{url}"], 4, "colour"),
        (["--nonsense"], 2, "No such option"),
        (["--redirect-uri", "ftp://a.example", "--issuer", "{url}", "--client-id", "c",
          "--origin", "{url}"], 4, "not a redirect URI on this machine"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_reported(server, command, arguments, code, message):
    """Sign-in: arguments are checked before the sign-in starts, and no secret is repeated."""
    arguments = [argument.format(url=server.url) for argument in arguments]
    line = failed(command("sign-in", "work", *arguments), code)
    assert message in line
    assert "hunter2" not in line


@pytest.mark.usefixtures("nothing_changes")
def test_an_issuer_without_s256_is_refused(server, command):
    """RFC 9700 section 2.1.1: a server without PKCE by S256 is refused."""
    where = "/.well-known/oauth-authorization-server"
    known = {"code_challenge_methods_supported": ["plain"]}
    server.on(where, lambda request, real: real.but(payload={**real.payload, **known}))
    assert "not with S256" in failed(command("sign-in", "work", *set_up(server)), exits.SETUP)


@pytest.mark.usefixtures("nothing_changes")
def test_an_unreachable_issuer_is_reported(server, command):
    """Sign-in: exit code 5 means that trying again may help."""
    with AuthorizationServer() as gone:
        options = set_up(gone)
    assert "no answer" in failed(command("sign-in", "work", *options), exits.UNAVAILABLE)


@pytest.mark.usefixtures("nothing_changes")
def test_settings_that_cannot_be_written_are_reported(command, monkeypatch):
    """Sign-in: if the disk is full, no file is changed."""
    monkeypatch.setenv("TEST_SECRET", "x")
    with AuthorizationServer(client_secret="x") as server:
        secret = ["--client-secret", "environment:TEST_SECRET"]
        with tapped("write", fail_with(errno.ENOSPC)):
            done = command("sign-in", "work", *set_up(server), "--client-credentials", *secret)
    assert "No space left" in failed(done, exits.SETUP)


# Ctrl-C at each step.


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("step", ["discovery", "browser", "code", "device", "poll"])
def test_ctrl_c_at_each_step_changes_nothing(server, step):
    """Sign-in: one line, exit code 130, and no file is changed, at whatever step it comes."""
    arrived, go_on = threading.Event(), threading.Event()

    def hold(request, real):
        arrived.set()
        go_on.wait(PATIENCE)

    options = ["--device"] if step in ("device", "poll") else []
    held = {
        "discovery": "/.well-known/oauth-authorization-server",
        "device": "/device_authorization",
        "poll": "/token",
        "code": "/token",
    }
    if step in held:
        server.on(held[step], hold)
    server.authorizations.device_interval = 0.05
    terminal = Terminal("sign-in", "work", *set_up(server), *options)
    browser = None
    if step in ("browser", "code"):
        url = terminal.find(r"http\S+/authorize\S+")
        if step == "code":
            browser = threading.Thread(target=answer, args=(url,))
            browser.start()
    if step in held:
        assert arrived.wait(PATIENCE)
    terminal.interrupt()
    done = terminal.finish()
    go_on.set()
    if browser is not None:
        browser.join()
    assert done.code == exits.INTERRUPTED, done
    assert one_line(done) == "silent-refresh: interrupted: nothing was changed"


def test_ctrl_c_during_the_save_comes_too_late():
    """Sign-in: a save that has begun is finished, both settings and session."""
    # Patches the package, because nothing else sends the signal at each system call of the save.
    program = (
        "import os, signal, sys\n"
        "from requests_silent_refresh import cli\n"
        "from requests_silent_refresh.system import private_files\n"
        "call = private_files.call\n"
        "def interrupted(function, *arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return call(function, *arguments, **options)\n"
        "from requests_silent_refresh.profiles import changes\n"
        "sign_in = changes.sign_in\n"
        "def watched(*arguments):\n"
        "    private_files.call = interrupted\n"
        "    try:\n"
        "        return sign_in(*arguments)\n"
        "    finally:\n"
        "        private_files.call = call\n"
        "changes.sign_in = watched\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    with AuthorizationServer(client_secret="s3cret") as server:
        options = [*set_up(server), "--client-credentials", "--client-secret", "environment:S"]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, "sign-in", "bot", *options],
            env={**os.environ, "S": "s3cret"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert profiles.load("bot").open_store().load().token is not None


# Two terminals.


def test_the_last_of_two_terminals_wins(server):
    """Sign-in: the last of two sign-ins sets settings and session, and running scripts adopt it."""
    first = Terminal("sign-in", "work", *set_up(server), "--scope", "first")
    second = Terminal("sign-in", "work", *set_up(server), "--scope", "second")
    pages = {
        "first": first.find(r"http\S+/authorize\S+"),
        "second": second.find(r"http\S+/authorize\S+"),
    }
    answer(pages["second"])
    assert second.finish().code == 0
    running = profiles.load("work")
    assert running.manager.token().scope == ("second",)
    answer(pages["first"])
    assert first.finish().code == 0
    now = profiles.load("work")
    assert now.sign_in["scope"] == ["first"]
    assert now.open_store().load().token.scope == ("first",)
    old = running.manager.token()
    assert running.manager.renew(old).scope == ("first",)
    assert server.counters.reuse_detections == 0
    assert server.counters.exchanges == 0, "the new session was adopted, not refreshed"


# The other commands.


def test_status_shows_each_profile(server, work, command):
    """Status: one line for each profile, and never a token."""
    changes.sign_in(profile(server, "My other"), Token("secret-at", "secret-rt"))
    code, out, err = command("status")
    assert (code, err) == (0, "")
    head, other, line = out.splitlines()
    assert re.split("  +", head) == [
        "PROFILE", "SIGNED IN", "SCOPE", "EXPIRES", "GEN.", "REFRESHED", "STORE"
    ]  # fmt: skip
    assert re.split("  +", other)[:3] == ["My other", "yes", "unknown"]
    name, signed_in, scope, expires, generation, refreshed, store = re.split("  +", line)
    assert (name, signed_in, scope, generation) == ("work", "yes", "read", "1")
    assert (expires, refreshed, store) == ("in 59 min", "0 s ago", "file")
    assert "secret" not in out


def test_status_is_json_for_programs(server, work, command):
    """Status: --json has the same fields, with times in Unix seconds."""
    code, out, err = command("status", "--json")
    (shown,) = json.loads(out)
    assert (code, err) == (0, "")
    assert 3590 < shown.pop("expires_in") <= 3600
    token = work.open_store().load().token
    assert shown == {
        "name": "work",
        "signed_in": True,
        "subject": None,
        "scope": ["read"],
        "expires_at": token.expires_at,
        "generation": 1,
        "refreshed_at": token.issued_at,
        "origins": [server.url],
        "store": work.place,
        "error": None,
    }


def test_status_knows_who_signed_in_after_a_refresh(server, command):
    """Status: the subject of the sign-in is shown for as long as its session lasts."""
    payload = server.sign_in() | {"id_token": "x.eyJzdWIiOiAiYW5uIn0."}
    changes.sign_in(profile(server), Token.from_response(payload, received_at=time.time()))
    assert command("refresh", "work")[0] == 0
    (shown,) = json.loads(command("status", "--json")[1])
    assert (shown["subject"], shown["generation"]) == ("ann", 2)
    profiles.load("work").open_store().save(server.sign_in_token(), after=None)
    (shown,) = json.loads(command("status", "--json")[1])
    assert shown["subject"] is None


def test_status_of_a_signed_out_profile(server, work, command):
    """Status: exit code 3 if a profile named in the arguments is not signed in."""
    assert command("status", "work")[0] == exits.DONE
    assert command("sign-out", "work")[1] == "Signed out of work.\n"
    assert command("sign-out", "work")[1] == "Nobody was signed in to work.\n"
    assert command("status")[0] == exits.DONE
    code, out, err = command("status", "work")
    assert (code, err) == (exits.SIGNED_OUT, "")
    assert re.split("  +", out.splitlines()[1])[:3] == ["work", "no", "2"]


def test_status_of_broken_profiles(server, work, command):
    """Status: a broken profile does not hide the others, and the exit code is 1."""
    changes.sign_in(profile(server, "broken"), server.sign_in_token())
    with open(profiles.load("broken").place, "r+b") as file:
        file.write(b"x")
    with open(paths.settings_file("worse"), "w") as file:
        file.write("{")
    code, out, _ = command("status")
    assert code == exits.FAILED
    _, broken, line, worse = out.splitlines()
    assert re.split("  +", broken)[1] == "?"
    assert line.startswith("work")
    assert "does not contain a profile's settings" in worse
    assert command("status", "nobody")[0] == exits.FAILED


def test_status_without_profiles(command):
    """Status: if there are no profiles, it says how to create one."""
    code, out, _ = command("status")
    hint = "To create one, see silent-refresh sign-in --help"
    assert (code, out) == (0, f"There are no profiles. {hint}\n")


def test_status_takes_no_lock(work, command, home):  # noqa: F811
    """Status: it succeeds at once while every lock of the profile is held."""
    with work.open_store().exclusive(1):
        pass  # creates the lock file that a refresh uses
    with every_lock_held(home) as names:
        began = time.monotonic()
        assert command("status", "work")[0] == 0
        assert time.monotonic() - began < 2
    tokens = Path(work.place).name
    assert {"work.json.lock", f"{tokens}.lock", f"{tokens}.write.lock"} <= names


def test_token_prints_the_current_token(server, work, command):
    """Token: prints only the token, refreshed if it is due, or a header for curl."""
    stored = work.open_store().load().token.access_token.reveal()
    assert command("token", "work") == (0, stored + "\n", "")
    assert command("token", "work", "--header") == (0, f"Authorization: Bearer {stored}\n", "")
    expired = Token(stored, work.open_store().load().token.refresh_token, expires_at=1.0)
    work.open_store().save(expired, after=work.open_store().load())
    code, out, _ = command("token", "work")
    assert code == 0
    assert out.strip() != stored
    assert server.counters.granted == 1


def test_the_header_is_that_of_the_profile(server, command):
    """Token: --header prints the header that the profile's adapter sends."""
    plain = profile(server, adapter_options={"header": "X-Token", "scheme": ""})
    changes.sign_in(plain, Token("secret-at"))
    assert command("token", "work", "--header")[1] == "X-Token: secret-at\n"


def test_curl_reads_the_token_from_a_pipe(server, work):
    """P12: as in the docs; the token is never among a process's arguments."""
    line = f"{sys.executable} -m requests_silent_refresh token work --header"
    done = subprocess.run(
        ["sh", "-c", f"{line} | {find('curl')} -s -H @- {server.resource}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert json.loads(done.stdout)["access_token_serial"] == 1


def test_refresh_makes_a_new_token(server, work, command):
    """Refresh: exactly one exchange, even if the token was due anyway."""
    assert command("refresh", "work") == (
        0, "Refreshed work: the token expires in 59 min.\n", ""
    )  # fmt: skip
    assert server.counters.exchanges == 1
    state = work.open_store().load()
    work.open_store().save(Token("x", state.token.refresh_token, expires_at=1.0), after=state)
    assert command("refresh", "work")[0] == 0
    assert server.counters.exchanges == 2


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ({"status": 503}, exits.UNAVAILABLE, "503"),
        ({"status": 400, "body": '{"error": "invalid_client"}'}, exits.SETUP, "invalid_client"),
        (
            {"status": 400, "body": '{"error": "invalid_grant"}'},
            exits.SIGNED_OUT,
            "run silent-refresh sign-in work",
        ),
    ],
)
def test_a_failed_refresh_has_the_exit_code_of_its_cause(
    server, work, command, fault, code, message
):
    """Exit codes: they tell whether to try again, fix the set-up, or sign in."""
    server.fault("token", times=None, **fault)
    assert message in failed(command("refresh", "work"), code)


def test_a_missing_secret_is_named(server, command):
    """Exit codes: if the variable of a client secret is not set, the set-up error names it."""
    grant = {**profile(server).grant, "client_secret": {"environment": "TEST_UNSET"}}
    changes.sign_in(profile(server, grant=grant), server.sign_in_token())
    assert "TEST_UNSET is not set" in failed(command("refresh", "work"), exits.SETUP)


def test_doctor_names_the_holder_of_the_lock(server, work, command):
    """Doctor: if a refresh hangs, the process that holds the lock is named."""
    with work.open_store().exclusive(1):
        assert f"the lock is held by process {os.getpid()}" in command("doctor", "work")[1]
    assert "the lock is free" in command("doctor", "work")[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailable("held"), exits.UNAVAILABLE),
        (RefreshTimeout("late"), exits.UNAVAILABLE),
        (StoreCorrupted("torn"), exits.FAILED),
        (WrongKey("another"), exits.SETUP),
        (OSError("torn"), exits.FAILED),
        (ImportError("redis"), exits.SETUP),
    ],
)
def test_every_failure_has_its_exit_code(error, code):
    """Exit codes: they tell whether to try again, fix the set-up, or look at what is broken."""
    assert exits.code_for(error) == code
    assert exits.line_for(error) == f"silent-refresh: {error}"


@pytest.mark.parametrize("name", ["token", "refresh", "sign-out", "rotate-key"])
def test_an_unknown_profile_is_reported(command, name):
    """Exit codes: 4, with the command that creates the profile."""
    line = failed(command(name, "nobody"), exits.SETUP)
    assert "silent-refresh sign-in nobody --issuer" in line


def test_import_accepts_a_token_endpoints_answer(server, command):
    """Import: the tokens are stored as they are, without an exchange."""
    payload = json.dumps(server.sign_in(scope="read"))
    code, out, err = command("import", "work", *set_up(server), stdin=payload)
    assert (code, err) == (0, "")
    assert "Signed in to work." in out
    assert server.counters.exchanges == 0
    assert profiles.load("work").sign_in["method"] == "import"


def test_import_accepts_a_refresh_token_alone(server, command):
    """Import: it is exchanged at once, and stored with the access token that it brought."""
    refresh_token = server.sign_in()["refresh_token"]
    code, out, err = command("import", "work", *set_up(server), stdin=refresh_token + "\n")
    assert (code, err) == (0, "")
    assert "Refreshed: the token expires in 59 min." in out
    assert server.counters.granted == 1
    assert profiles.load("work").open_store().load().generation == 1


@pytest.mark.parametrize(
    "given", ["rt-unknown", '{"access_token": "a", "refresh_token": "rt-unknown"}']
)
def test_import_tries_what_it_was_given_before_the_old_session_goes(
    server,
    work,
    command,
    home,  # noqa: F811
    given,
):
    """Import: a typo loses no session, neither here nor at the server."""
    before = files_in(home)
    line = failed(command("import", "work", stdin=given), exits.NOT_COMPLETED)
    assert "the refresh token that was given is not accepted" in line
    assert files_in(home) == before
    assert command("refresh", "work")[0] == 0


def test_import_of_the_same_tokens_again_revokes_nothing(server, command):
    """Import: the session that is replaced may be the one that was given."""
    tokens = json.dumps(server.sign_in())
    assert command("import", "work", *set_up(server), stdin=tokens)[0] == 0
    assert command("import", "work", stdin=tokens)[0] == 0
    assert command("refresh", "work")[0] == 0
    assert (server.counters.revocations, server.counters.reuse_detections) == (0, 0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_import_knows_the_encodings_of_windows(server, encoding):
    """Import: a byte order mark, and what a redirection of PowerShell writes."""
    done = subprocess.run(
        [sys.executable, "-m", "requests_silent_refresh", "import", "work", *set_up(server)],
        input=json.dumps(server.sign_in()).encode(encoding),
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_import_for_a_json_api(server, command):
    """Import: an API with its own JSON refresh, with options for the grant."""
    options = ["--json-refresh", server.json_endpoint + "/nested", "--origin", server.url]
    options += [
        "--grant-option",
        "timeout=5",
        "--grant-option",
        "access_token_path=data.access_token",
    ]
    given = server.sign_in()
    camel = {"accessToken": given["access_token"], "refreshToken": given["refresh_token"]}
    assert command("import", "shop", *options, stdin=json.dumps(camel))[0] == 0
    kept = profiles.load("shop")
    assert kept.grant["timeout"] == 5
    assert command("refresh", "shop")[0] == 0
    assert command("import", "shop", stdin=json.dumps(server.sign_in()))[0] == 0
    assert profiles.load("shop").grant == kept.grant


@pytest.mark.parametrize("text", ["", "{", "{}", "two words", '{"access_token": [7]}', "[" * 9999])
@pytest.mark.usefixtures("nothing_changes")
def test_import_of_input_without_a_token(server, command, text):
    """Import: one line, which repeats nothing of the input."""
    line = failed(command("import", "work", *set_up(server), stdin=text), exits.SETUP)
    assert "words" not in line


@pytest.mark.usefixtures("nothing_changes")
def test_import_of_too_much(server, command):
    """Import: a log or a disk image is not read into memory as a whole."""
    done = run("import", "work", *set_up(server), stdin="x" * (1024 * 1024 + 1))
    assert done.code == exits.SETUP
    assert "larger than any tokens" in one_line(done)


@pytest.mark.usefixtures("nothing_changes")
def test_import_cannot_read_two_things_from_standard_input(server, command):
    """Import: standard input has the tokens, so the secret must come from elsewhere."""
    options = [*set_up(server), "--client-secret", "ask"]
    line = failed(command("import", "work", *options, stdin="x"), exits.USAGE)
    assert "standard input is for the tokens" in line


def test_rotate_key_does_not_disturb_running_scripts(server, work, command):
    """Rotation: the new key encrypts, the previous one is kept, and older ones are removed."""
    running = profiles.load("work").manager
    assert running.token()
    path = Path(paths.key_file("work"))
    keys = [path.read_text().split()]
    for _ in range(3):
        code, out, _ = command("rotate-key", "work")
        assert code == 0
        keys.append(path.read_text().split())
        assert out.startswith("The tokens of work are now encrypted with the key ")
    assert [len(lines) for lines in keys] == [1, 2, 2, 2]
    assert keys[3][1] == keys[2][0]
    assert keys[0][0] not in keys[3]
    assert running.renew(running.token())
    assert profiles.load("work").manager.signed_in


def test_rotate_key_with_keys_from_elsewhere(server, command, tmp_path):
    """Rotation: with several keys in the settings, the first one encrypts from then on."""
    one = {"key_file": str(tmp_path / "one.key"), "make": True}
    two = {"key_file": str(tmp_path / "two.key"), "make": True}
    changes.sign_in(profile(server, key=one), server.sign_in_token())
    profile(server, key=[two, one]).save()
    first = Path(profiles.load("work").place).read_bytes()
    assert command("rotate-key", "work")[0] == 0
    assert Path(profiles.load("work").place).read_bytes() != first
    profile(server, key=two).save()
    assert profiles.load("work").manager.signed_in
    changes.sign_in(profile(server, "own", key=two), server.sign_in_token())
    assert command("rotate-key", "own")[0] == 0
    assert len((tmp_path / "two.key").read_text().split()) == 2


def test_rotate_key_to_a_key_from_elsewhere(server, command, monkeypatch):
    """Rotation: --key NEW; a key that is missing changes nothing, and no earlier key is dropped."""
    for name in ("TEST_OLD", "TEST_NEW"):
        monkeypatch.setenv(name, generate_key())
    changes.sign_in(profile(server, key={"environment": "TEST_OLD"}), server.sign_in_token())
    before = profiles.load("work").to_settings()
    failed(command("rotate-key", "work"), exits.USAGE)
    assert command("rotate-key", "work", "--key", "environment:TEST_UNSET")[0] != 0
    assert profiles.load("work").to_settings() == before
    for _ in range(2):
        assert command("rotate-key", "work", "--key", "environment:TEST_NEW")[0] == 0
        assert profiles.load("work").key == [
            {"environment": "TEST_NEW"},
            {"environment": "TEST_OLD"},
        ]
    monkeypatch.delenv("TEST_OLD")
    profile(server, key={"environment": "TEST_NEW"}).save()
    assert profiles.load("work").manager.signed_in


def test_rotate_key_before_the_first_sign_in(server, command):
    """Rotation: the output says that there is nothing to encrypt."""
    profile(server).save()
    assert "nothing to encrypt" in command("rotate-key", "work")[1]


def test_doctor_finds_nothing_wrong(server, work, command):
    """Doctor: a line each for modes, key, state, lock, endpoints and clock; no token is sent."""
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "work:"
    assert {line.split()[0] for line in lines[1:]} == {"ok"}
    for expected in (
        "settings:",
        "key file:",
        "tokens:",
        "signed in, generation 1",
        "the lock",
        "/token",
    ):
        assert expected in out
    assert server.counters.granted == 0


@pytest.mark.filterwarnings("ignore:.*can be replaced by others")
def test_doctor_finds_what_is_wrong(server, work, command, tmp_path):
    """Doctor: each problem has its line, and the exit code is 1."""
    os.chmod(paths.key_file("work"), 0o644)
    os.chmod(os.path.dirname(work.place), 0o777)
    code, out, _ = command("doctor", "work")
    assert code == exits.FAILED
    assert re.search("problem +key file: .* can be opened by others .*rotate-key work", out)
    assert os.stat(paths.key_file("work")).st_mode & 0o777 == 0o644, "doctor changes nothing"
    assert re.search("problem +tokens: other users can replace", out)
    grant = {**profile(server).grant, "client_secret": {"environment": "TEST_UNSET"}}
    grant["revocation_endpoint"] = "https://127.0.0.1:1/revoke"
    key = {"passphrase": {"environment": "TEST_UNSET"}}
    profile(server, "bad", grant=grant, key=key).save()
    code, out, _ = command("doctor", "bad", "nobody")
    assert code == exits.FAILED
    assert re.search("problem +client secret: .*TEST_UNSET is not set", out)
    assert re.search("problem +revocation_endpoint https://127.0.0.1:1/revoke: no answer", out)
    assert re.search("nobody:\n  problem +there is no profile", out)


def test_doctor_warns_of_clock_session_and_server(server, command):
    """Doctor: warns of a wrong clock, a session without refresh token, and a failing server."""
    changes.sign_in(profile(server), Token("a"))
    server.on("/token", lambda request, real: Answer(500))
    server.clock = lambda: time.time() - 3600
    server.stop()
    server.start()
    code, out, _ = command("doctor", "work")
    assert code == 0
    assert re.search("warning +there is no refresh token", out)
    assert re.search("warning +token_endpoint .* answers 500", out)
    assert re.search(r"warning +this machine's clock is 3[56]\d\d s ahead of the server's", out)


def test_doctor_of_a_profile_that_is_not_signed_in(server, command):
    """Doctor: it names the command to sign in; it also finds a wrong grant or endpoint."""
    profile(server, "new").save()
    code, out, _ = command("doctor", "new")
    assert code == 0
    assert "warning  nobody is signed in: run silent-refresh sign-in new" in out
    grant = {"kind": "json", "url": "http://a.example/x", "headers": {"X": {"environment": "X"}}}
    profile(
        server, "wrong", grant=grant, sign_in={"issuer": "no url"}, key={"key_file": "/x/y"}
    ).save()
    code, out, _ = command("doctor", "wrong")
    assert code == exits.FAILED
    assert out.count("problem") >= 2


def test_completion_knows_commands_and_profiles(server, work, command):
    """Completion: the script for the shell, and the names of commands and profiles."""
    assert "_SILENT_REFRESH_COMPLETE=bash_complete" in command("completion", "bash")[1]
    done = run(
        _SILENT_REFRESH_COMPLETE="bash_complete",
        COMP_WORDS="silent-refresh token w",
        COMP_CWORD="2",
    )
    assert done.out == "plain,work\n"


def test_help_names_every_command_and_exit_code(command):
    """Help: also without arguments; sign-in has its own help."""
    code, out, _ = command()
    assert code == 0
    assert command("--help") == (0, out, "")
    for name in ("sign-in", "status", "token", "refresh", "sign-out", "import", "rotate-key",
                 "doctor", "demo", "completion"):  # fmt: skip
        assert f"  {name} " in out
    assert "3 signed out" in out
    assert command("sign-in", "--help")[0] == 0
    assert command("--version")[1].startswith("silent-refresh, version ")


def test_verbose_shows_the_log(server, work):
    """Logging: -v prints the log to standard error, without any token."""
    done = run("-v", "refresh", "work")
    assert "INFO refreshed" in done.err
    assert "at-" not in done.err
    assert "rt-" not in done.err


def test_an_unknown_command_is_reported(command):
    """Exit codes: 2, with one line."""
    assert "No such command 'bogus'" in failed(command("bogus"), exits.USAGE)


def test_the_demo_is_a_command_too(command):
    """Demo: it can be run as one of click's commands, and parses its own arguments."""
    for arguments, code in ((["--help"], 0), (["--threads", "no number"], 2)):
        with pytest.raises(SystemExit) as caught:
            command("-v", "demo", *arguments)
        assert caught.value.code == code


def test_without_the_extra_only_the_demo_works():
    """Extras: without click and oauthlib, the other commands say what to install."""
    program = (
        "import sys\n"
        "for name in ('click', 'oauthlib'): sys.modules[name] = None\n"
        "from requests_silent_refresh.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def without(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = without("demo", "--threads", "2", "--expiries", "1", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    for arguments in ([], ["status"], ["sign-in", "work"]):
        done = without(*arguments)
        assert done.returncode == exits.SETUP
        assert one_line(Done(done.returncode, done.stdout, done.stderr)).endswith(
            "pip install 'requests-silent-refresh[cli]'"
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3600, "60 min"), (7200, "2 h"), (200000, "2 d")],
)
def test_durations_are_rounded_down(seconds, text):
    """Times: the largest unit that fits at least twice."""
    assert span(seconds) == text


def test_moments_are_relative_to_now():
    """Times: past, future and unknown moments."""
    assert until(None) == "at a time the server did not state"
    assert until(time.time() - 1) == "now"
    assert since(None) == ""
    assert since(time.time() + 60) == "0 s ago"
