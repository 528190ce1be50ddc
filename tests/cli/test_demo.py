"""``python -m requests_silent_refresh demo``, in this process and as a separate one."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, Token, TokenManager
from requests_silent_refresh.cli import main
from requests_silent_refresh.cli.demo import command
from requests_silent_refresh.cli.demo.crowd import Crowd
from requests_silent_refresh.cli.demo.expiry import Expiry
from requests_silent_refresh.cli.demo.report import Report, measure, percentile
from requests_silent_refresh.cli.demo.screen import Screen
from requests_silent_refresh.testing import Answer, AuthorizationServer, EventLog, Request

ROOT = Path(__file__).parents[2]

SMALL = ("--threads", "8", "--expiries", "2", "--seconds", "0", "--only-ours")


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path, monkeypatch):
    """Keep the tests away from the default state and keys of the current user."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def run(capsys, state) -> Callable[..., tuple[int, str, str]]:
    """Run the demo in this process, and return its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["demo", "--state", str(state), *SMALL, *arguments])
        return (code, *capsys.readouterr())

    return run


def as_process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "requests_silent_refresh", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_64_threads_through_5_expiries():
    """P1, P2: with its default arguments: 5 exchanges, 320 401s, no failure, no reuse."""
    process = as_process("demo", "--json", "--seconds", "0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert report["rejected_per_expiry"] == [64] * 5
    assert report["exchanges_per_expiry"] == [1] * 5
    assert (report["failures"], report["reuse_detections"]) == (0, 0)
    assert report["ok"] is True
    snippet = report["snippet"]
    # One exchange for each thread, except for those that a busy machine starts too late.
    assert 2 <= snippet["exchanges_per_expiry"][0] <= 64
    assert snippet["session"] == "lost"
    assert snippet["failures"] > 0
    assert report["requests"] >= 64 * 5
    assert 0 < report["wait_median"] <= report["wait_p99"] < 10
    assert Path(report["state"]).is_relative_to(os.environ["HOME"])


def test_the_next_run_continues_without_signing_in(run, state):
    """The encrypted file: a second run uses the session of the first one and says so."""
    code, out, _ = run()
    assert code == 0
    assert f"Signed in. The tokens are stored, encrypted, in {state}" in out
    code, out, _ = run("--json")
    assert code == 0
    assert json.loads(out)["session"] == "went on"
    code, out, _ = run()
    assert code == 0
    assert f"Continued without signing in, with the tokens in {state}" in out
    assert "Signed in" not in out


def test_plain_output_has_a_line_for_each_phase_and_a_table(run):
    """Without a terminal: plain lines, phases in order, then the table; no control characters."""
    _, out, err = run()
    assert err == ""
    assert not re.search(r"[^\n -~]", out)
    phases = re.findall(r"^  (rejected|waiting|refreshed|replayed) +(\d+)  ", out, re.MULTILINE)
    assert [name for name, _ in phases] == ["rejected", "waiting", "refreshed", "replayed"] * 2
    assert [int(n) for name, n in phases if name in ("rejected", "replayed")] == [8] * 4
    assert [int(n) for name, n in phases if name == "refreshed"] == [1, 1]
    table = dict(re.findall(r"^([a-z0-9][\w, ]*?)  +(.*)$", out, re.MULTILINE))
    assert table["failures"] == "0"
    assert table["401s"] == "16"
    assert table["exchanges"] == "2"
    assert table["reuse detections"] == "0"
    assert re.fullmatch(r"0\.\d{3} s", table["wait, median"])
    assert re.fullmatch(r"0\.\d{3} s", table["wait, p99"])


def test_the_snippet_is_shown_first_and_beside_ours(capsys, state):
    """The contrast: the same crowd without a lock loses its session; the exit code is ours."""
    small = SMALL[:-1]
    code = main(["demo", "--state", str(state), *small])
    out = capsys.readouterr().out
    assert code == 0
    assert re.search(r"^  exchanges +[2-8]  ", out, re.MULTILINE)
    assert re.search(r"^  failed +[1-8]  ", out, re.MULTILINE)
    assert out.index("failed") < out.index("Signed in")
    table = out[out.index("the snippet ") :]
    assert re.search(r"^threads +8 +8$", table, re.MULTILINE)
    assert re.search(r"^exchanges +[2-8] +2$", table, re.MULTILINE)
    assert re.search(r"^session +lost +kept$", table, re.MULTILINE)
    assert not re.search(r"[^\n -~]", out)


def test_no_token_is_written_in_plain_text(run, state):
    """P12: neither the output nor any file beside the state contains a token in plain text."""
    _, out, _ = run()
    files = [path for path in state.parent.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"tokens", "tokens.server"}
    for text in (out, *(path.read_bytes().decode("latin-1") for path in files)):
        assert not re.search(r"\b[ar]t-[\w-]{20}", text)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_demo_can_be_continued(state):
    """P5: SIGKILL after a refresh; the next run continues the saved session."""
    options = ("demo", "--state", str(state), "--threads", "8", "--expiries", "2", "--only-ours")
    with as_process(*options, "--seconds", "0.5") as process:
        _until(process, "replayed")  # of the first expiry; the second is half a second away
        process.send_signal(signal.SIGKILL)
    with as_process(*options, "--seconds", "0", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["session"] == "went on"


def _until(process: subprocess.Popen[str], text: str) -> str:
    """Read lines of the process's output until one contains ``text``, and return that one."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child alone")
def test_ctrl_c_ends_it_with_one_line(run, state):
    """Ctrl-C: exit code 130, one line, no traceback; the next run continues the session."""
    options = ("demo", "--state", str(state), "--threads", "8", "--expiries", "1")
    with as_process(*options, "--seconds", "600") as process:
        _until(process, "at work")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted; the next run continues from here\n")
    assert json.loads(run("--json")[1])["session"] == "went on"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_a_terminal_lines_are_rewritten(state):
    """On a terminal: counts are updated in place, and each line ends with its final count."""
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "requests_silent_refresh", "demo", "--state", str(state), *SMALL],
        cwd=ROOT,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = b""
    try:
        while piece := os.read(master, 65536):
            output += piece
    except OSError:  # raised when the other end of the pseudo-terminal is closed
        pass
    finally:
        os.close(master)
    assert process.wait(30) == 0
    text = output.decode()
    assert "\r\x1b[2K  waiting" in text
    finals = re.findall(r"(\w+) +(\d+)  [^\r\x1b]*\r\n", text)
    assert ("replayed", "8") in finals


def test_a_failed_request_fails_the_run(state):
    """A 400 from the token endpoint fails the batch, and the table shows it."""
    arguments = argparse.Namespace(threads=4, expiries=2, seconds=0.0)
    state.parent.mkdir()
    run = command.Demo(arguments, str(state), Screen(None))
    run.server.fault("token", status=400, body='{"error": "invalid_scope"}')
    report = run.run()
    assert not report.ok
    assert report.failures >= 4
    assert report.exchanges_per_expiry[0] == 1
    assert "RefreshFailed" in (report.first_error or "")
    assert "first error" in report.as_table()


def test_it_signs_in_again_if_the_server_lost_the_session(run, state):
    """Without the server's database the stored session has ended, and the output says so."""
    run()
    Path(f"{state}.server").unlink()
    code, out, _ = run()
    assert code == 0
    assert "Signed in again: the server no longer knows the stored session." in out
    assert re.search(r"^  at the start +1$", out, re.MULTILINE)


def test_an_expired_stored_token_is_refreshed_first(run, state):
    """A run days later: the stored access token has expired, and the refresh token is used."""
    state.parent.mkdir()
    with AuthorizationServer(
        client_id="demo", database=f"{state}.server", access_token_lifetime=0
    ) as server:
        grant = command.DemoGrant(server.token_endpoint, client_id="demo")
        manager = TokenManager(grant, EncryptedFileStore(state))
        manager.sign_in(server.sign_in_token())
    code, out, _ = run("--json")
    report = json.loads(out)
    assert code == 0
    assert (report["session"], report["exchanges_at_start"]) == ("went on", 1)
    assert report["exchanges_per_expiry"] == [1, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child alone")
def test_a_second_demo_on_the_same_state_is_refused(run, state):
    """A second demo names the process that uses the state, and does not change the tokens."""
    with as_process("demo", "--state", str(state), *SMALL, "--seconds", "600") as first:
        _until(first, "at work")
        before = state.read_bytes()
        code, out, err = run()
        assert state.read_bytes() == before
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=30)
    assert (code, out) == (1, "")
    assert f"another demo (process {first.pid}" in err
    assert first.returncode == 130, "the first one was not disturbed"


def test_an_unreadable_state_is_one_line_on_stderr(run, state):
    """Bad input: a wrong key or another program's file is a clear error, not a traceback."""
    state.parent.mkdir()
    EncryptedFileStore(state, key=b"0" * 43 + b"=").save(Token("a", "b"), after=None)
    before = state.read_bytes()
    code, _, err = run()
    assert code == 1
    assert err.startswith("demo: ")
    assert err.count("\n") == 1
    assert state.read_bytes() == before
    Path(f"{state}.server").write_text("something else")
    code, _, err = run()
    assert (code, "is not an AuthorizationServer file" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--expiries", "x"], "'x' is not a whole number of at least 1"),
        (["demo", "--seconds", "-1"], "'-1' is not a number from 0 to 3000"),
        (["demo", "--seconds", "nan"], "'nan' is not a number from 0 to 3000"),
        (["demo", "--seconds", "soon"], "'soon' is not a number from 0 to 3000"),
    ],
)
def test_invalid_arguments(capsys, arguments, message):
    """Exit code 2, and the message names the argument."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_report_is_measured_from_the_servers_log():
    """The table's numbers come from the server's log, counted for each expiry."""
    log = EventLog(lambda: 0.0)
    log.append("exchange")
    for _ in range(2):
        log.append("early-revocation")
        log.append("resource", status=401, path="/a")
        log.append("exchange", reason="reuse")
        log.append("resource", status=200, path="/a", began=log[-2].at + 1.5)
        log.append("resource", status=200, path="/a")
    fields = measure(log, expiries=2)
    assert fields["rejected_per_expiry"] == [1, 1]
    assert (fields["exchanges_at_start"], fields["exchanges_per_expiry"]) == (1, [1, 1])
    assert fields["reuse_detections"] == 2
    assert (fields["wait_median"], fields["wait_p99"]) == (1.5, 1.5)
    assert measure([], 3)["wait_median"] is None
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.99) == 4.0


@pytest.fixture
def crowd_of_two():
    """Start two threads whose first requests stay in the server until their event is set."""
    go, arrived = (threading.Event(), threading.Event()), threading.Semaphore(0)

    def stay(request: Request, answer: Answer) -> None:
        arrived.release()
        go[int(request.path[-1])].wait(30)

    with AuthorizationServer() as server:
        server.on("/resource/0", stay)
        server.on("/resource/1", stay)
        manager = TokenManager(RefreshTokenGrant(server.token_endpoint, client_id="client"))
        manager.sign_in(server.sign_in_token())
        crowd = Crowd(2, partial(command._session, manager, server.url), server.resource)
        crowd.start()
        try:
            assert arrived.acquire(timeout=30)
            assert arrived.acquire(timeout=30)
            yield server, manager, crowd, go
        finally:
            go[0].set()
            go[1].set()
            crowd.stop()


def reached(condition: Callable[[], bool]) -> bool:
    return Screen(None).follow(str, condition, timeout=30)


def test_an_expiry_is_over_when_its_requests_are_answered(crowd_of_two):
    """A request that was answered before the token was revoked is not counted as a replay."""
    server, manager, crowd, go = crowd_of_two
    with server.token_gate() as gate:
        expiry = Expiry(server, manager, crowd)
        go[0].set()  # each thread gets an answer; then both are held and their token is revoked
        go[1].set()
        assert gate.arrived.wait(30)
        assert not expiry.is_over()
    assert reached(expiry.is_over)
    assert (expiry.rejected(), expiry.refreshed()) == (2, 1)


def test_giving_up_an_expiry_releases_the_threads(crowd_of_two):
    """Ctrl-C while threads are being held: they continue, so that the demo can end."""
    server, manager, crowd, go = crowd_of_two
    expiry = Expiry(server, manager, crowd)
    go[1].set()  # thread 0 stays in its first request, so the gate does not fill
    assert reached(lambda: expiry.gate.held == 1)
    before = crowd.finished[1]
    expiry.give_up()
    assert reached(lambda: crowd.finished[1] > before + 1)
    assert server.counters.early_revocations == 0


def test_lines_are_rewritten_on_a_terminal_only():
    """Screen: updates in place on a terminal, only the final line in a pipe, nothing for None."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, counts, looks = Terminal(), iter("123"), iter((False, False, True))
    assert Screen(terminal).follow(counts.__next__, looks.__next__, timeout=30)
    assert terminal.getvalue() == "\r\x1b[2K1\r\x1b[2K2\r\x1b[2K3\n"
    pipe, looks = io.StringIO(), iter((False, True))
    assert Screen(pipe).follow(lambda: "3", looks.__next__, timeout=30)
    assert pipe.getvalue() == "3\n"
    assert not Screen(None).follow(str, lambda: False, timeout=0)


@pytest.mark.parametrize(
    ("failures", "exchanges", "ok"),
    [(0, [1, 1], True), (1, [1, 1], False), (0, [2, 1], False), (0, [1, 0], False)],
)
def test_when_a_run_is_ok(failures, exchanges, ok):
    """A run fails if a request failed or an expiry did not cost exactly one exchange."""
    report = Report(
        session="went on",
        state="x",
        threads=1,
        expiries=2,
        seconds=1.0,
        requests=10,
        failures=failures,
        first_error=None,
        rejected_per_expiry=[1, 1],
        exchanges_at_start=0,
        exchanges_per_expiry=exchanges,
        reuse_detections=0,
        wait_median=None,
        wait_p99=None,
    )
    assert report.ok is ok
    assert json.loads(report.as_json())["ok"] is ok
