"""P5: a refresh that has begun is finished and saved, whatever happens to its caller.

Each test starts a process and interrupts it while the server holds its exchange. Afterwards
another process finds the new token in the file.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from queue_kit import assert_no_token_was_spent_twice, until

import requests_silent_refresh
from requests_silent_refresh import EncryptedFileStore

KEY = b"k" * 43 + b"="

PRELUDE = textwrap.dedent(
    """
    import atexit, contextlib, os, signal, sys, threading, time, warnings

    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    PATH, URL = sys.argv[1:]

    def say(word):
        # In one write, or the lines of parent and child may mix if stdout is unbuffered.
        sys.stdout.write(f"{word}\\n")
        sys.stdout.flush()

    def hear():
        return sys.stdin.readline().strip()

    def make(store=None, refresh=None, **options):
        import requests
        from requests_silent_refresh import (
            EncryptedFileStore, RefreshTokenGrant, SilentRefreshAdapter, TokenManager,
        )

        store = store or EncryptedFileStore(PATH, b"k" * 43 + b"=")
        refresh = refresh or RefreshTokenGrant(URL + "/token", "client")
        manager = TokenManager(refresh, store, **{"refresh_ahead": 0, **options})
        session = requests.Session()
        SilentRefreshAdapter(manager, URL).mount_on(session)
        return manager, session
    """
)


class Child:
    """A process that runs ``code`` after the prelude. The test and it exchange lines of text."""

    def __init__(self, server, path, code):
        # A file, so that reading one stream never blocks on the other.
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the end)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path), server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )

    def hear(self):
        return self.process.stdout.readline().strip()

    def say(self, word="go"):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def interrupt(self, number=signal.SIGINT):
        self.process.send_signal(number)
        until(lambda: not self._pending(number))

    def _pending(self, number):
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        masks = [int(line.split()[1], 16) for line in text.splitlines() if "Pnd:" in line]
        return any(mask & 1 << (number - 1) for mask in masks)

    def end(self):
        """Wait for the end of the process; return its words, its stderr, and its exit code."""
        said = self.process.stdout.read().split()
        self.process.wait(60)
        self._complaints.seek(0)
        return said, self._complaints.read(), self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()
        self._complaints.close()


@pytest.fixture
def path(tmp_path, server):
    """The file of a session whose access token is rejected."""
    path = tmp_path / "tokens"
    EncryptedFileStore(path, KEY).save(server.sign_in_token(), after=None)
    server.revoke_access_tokens()
    return path


def assert_saved(server, path):
    """Check that there was one exchange, and that another process finds its token in the file."""
    assert EncryptedFileStore(path, KEY).load().generation == 2
    assert server.counters.exchanges == server.counters.granted == 1
    code = "say(make()[1].get(URL + '/resource').status_code)"
    with Child(server, path, code) as child:
        assert child.end() == (["200"], "", 0)
    assert server.counters.exchanges == 1
    assert_no_token_was_spent_twice(server)


# -- Ctrl-C and signals -----------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_while_an_exchange_is_under_way(server, path, times):
    """P5: the first Ctrl-C ends the request; more of them come while the exit waits."""
    code = """
        manager, session = make()
        try:
            session.get(URL + "/resource")
        except KeyboardInterrupt:
            say("interrupted")
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.interrupt()
        assert child.hear() == "interrupted"
        for _ in range(times - 1):
            child.interrupt()
        assert EncryptedFileStore(path, KEY).load().generation == 1
        held.release()
        # A later one may hit the last line of the script, or another exit handler.
        _, _, returned = child.end()
    assert returned in ((0,) if times == 1 else (0, -signal.SIGINT))
    assert_saved(server, path)


def test_ctrl_c_that_is_not_caught(server, path):
    """P5: the traceback is the caller's own, and the exit code is what a shell expects."""
    code = "make()[1].get(URL + '/resource')"
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.interrupt()
        held.release()
        _, complaint, returned = child.end()
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    assert returned == -signal.SIGINT
    assert_saved(server, path)


def test_a_signal_handler_that_exits(server, path):
    """P5: SIGTERM raises SystemExit in the waiting request, and again while the exit waits."""
    code = """
        import signal
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))
        manager, session = make()
        atexit.register(say, "leaving")  # runs first
        session.get(URL + "/resource")
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.interrupt(signal.SIGTERM)
        assert child.hear() == "leaving"
        child.interrupt(signal.SIGTERM)
        held.release()
        _, _, returned = child.end()
    assert returned == 7
    assert_saved(server, path)


# -- the interpreter exits ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["background", "daemon thread", "sys.exit"])
def test_the_interpreter_exits_with_an_exchange_under_way(server, path, way):
    """P5: the exit waits for it, whatever began it."""
    code = f"""
        way = {way!r}
        manager, session = make()
        if way == "background":
            manager.start_refresh(manager.token())
        else:
            threading.Thread(target=session.get, args=(URL + "/resource",), daemon=True).start()
        hear()
        if way == "sys.exit":
            sys.exit(3)
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.say()
        held.release()
        assert child.end() == ([], "", 3 if way == "sys.exit" else 0)
    assert_saved(server, path)


def test_ctrl_c_whenever_an_exit_handler_begins(server, path):
    """P5: a burst of them ends several of the package's exit handlers at their first line."""
    code = """
        def interrupt(frame, event, argument):
            if frame.f_code.co_name == "finish_all" and left:
                left.pop()
                signal.raise_signal(signal.SIGINT)

        left = [None] * 20
        manager, session = make()
        manager.start_refresh(manager.token())
        hear()
        sys.unraisablehook = lambda ignored: sys.settrace(interrupt)  # what raises is removed
        sys.settrace(interrupt)
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.say()
        held.release()
        assert child.end() == ([], "", 0)
    assert_saved(server, path)


def test_finalizers_run_after_the_exit_has_waited(server, path):
    """P5: urllib3 closes its pools in them, those of the exchange under way too."""
    code = """
        import weakref

        manager, session = make()
        manager.start_refresh(manager.token())
        hear()
        weakref.finalize(session, lambda: say(manager.finish(0)))
        atexit.register(say, "leaving")
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.say()
        assert child.hear() == "leaving"
        held.release()
        assert child.end() == (["True"], "", 0)
    assert_saved(server, path)


@pytest.mark.parametrize("registered", ["before", "after"])
def test_a_request_made_while_the_interpreter_exits(server, path, registered):
    """P5: an exit handler that runs before or after ours sends it, when no thread can be started
    any more (Python 3.12). Ctrl-C is deferred until the token is saved."""
    code = f"""
        registered = {registered!r}

        def at_exit():
            try:
                say(session.get(URL + "/resource").status_code)
            except KeyboardInterrupt:
                say("interrupted")
            # urllib3 has closed its connections by now and will not do so again.
            warnings.simplefilter("ignore", ResourceWarning)
            session.close()

        if registered == "before":
            atexit.register(at_exit)
        manager, session = make()
        if registered == "after":
            atexit.register(at_exit)
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        if registered == "before":
            child.interrupt()
        held.release()
        said, complaint, returned = child.end()
    assert (complaint, returned) == ("", 0)
    assert said == ["interrupted" if registered == "before" else "200"]
    assert_saved(server, path)


def test_a_daemon_thread_that_asks_for_a_refresh_while_the_interpreter_exits(server, path):
    """P5, P6: nothing is sent for it, and an exit handler's own request is not refused for that."""
    code = """
        from requests_silent_refresh import RefreshUnavailable

        asks = threading.Event()

        def ask():
            asks.wait()
            try:
                manager.renew(manager.token())
            except RefreshUnavailable:
                say("refused")

        def at_exit():
            asks.set()
            thread.join()
            manager.renew(manager.token())
            say("renewed")

        atexit.register(at_exit)
        manager, session = make()
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
    """
    with Child(server, path, code) as child:
        assert child.end() == (["refused", "renewed"], "", 0)
    assert_saved(server, path)


def test_no_refresh_ahead_of_time_begins_while_the_interpreter_exits(server, path):
    """P5: nothing would wait for it."""
    code = """
        def at_exit():
            manager.start_refresh(manager.token())
            say("begun")

        atexit.register(at_exit)
        manager, session = make()
    """
    with Child(server, path, code) as child:
        assert child.end() == (["begun"], "", 0)
    assert server.counters.exchanges == 0


def test_the_exit_does_not_wait_for_a_person(server, path):
    """P10: ``on_session_expired`` may block for minutes."""
    code = """
        manager, session = make(on_session_expired=lambda error: time.sleep(600))
        threading.Thread(target=session.get, args=(URL + "/resource",), daemon=True).start()
        while not any(t.name == "silent-refresh-sign-in" for t in threading.enumerate()):
            time.sleep(0.01)
        say("leaving")
    """
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with Child(server, path, code) as child:
        assert child.end() == (["leaving"], "", 0)


def test_the_exit_waits_for_on_refreshed(server, path):
    """A program that writes the token down in this callback has written it at the exit."""
    code = """
        def slowly(token):
            time.sleep(0.2)
            say("told")

        manager, session = make(on_refreshed=slowly)
        session.get(URL + "/resource")
    """
    with Child(server, path, code) as child:
        assert child.end() == (["told"], "", 0)


def test_no_thread_can_be_started(server, path):
    """P5: at the system's limit the exchange runs in the caller, and Ctrl-C is deferred."""
    code = """
        def refuse(self):
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse
        manager, session = make()
        try:
            session.get(URL + "/resource")
        except KeyboardInterrupt:
            say("interrupted")
        say(session.get(URL + "/resource").status_code)
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.interrupt()
        held.release()
        assert child.end() == (["interrupted", "200"], "", 0)
    assert_saved(server, path)


def test_no_thread_can_be_started_for_a_request_in_a_thread(server, path):
    """P5: there is no Ctrl-C to defer in such a thread. The request succeeds, no refresh ahead of
    time begins or is waited for, and the caller gets a BaseException of the refresh callable."""
    code = """
        from requests_silent_refresh import Token, TokenManager

        def work():
            manager.start_refresh(manager.token())
            say(manager.finish(0))
            say(manager.stats.exchanges)
            say(session.get(URL + "/resource").status_code)

        manager, session = make()
        thread = threading.Thread(target=work)
        start = threading.Thread.start

        def refuse(self):
            if self is thread:
                return start(self)
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse
        thread.start()
        thread.join()

        def leave(token):
            raise SystemExit(5)

        other = TokenManager(leave)
        other.sign_in(Token("a", "b"))
        try:
            other.renew(other.token())
        except SystemExit as error:
            say(error.code)
    """
    with Child(server, path, code) as child:
        assert child.end() == (["True", "0", "200", "5"], "", 0)
    assert_saved(server, path)


# -- fork -------------------------------------------------------------------------------------


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")

FORK = """
    def in_a_child(work):
        if (pid := os.fork()) == 0:
            signal.alarm(30)  # fails instead of hanging
            try:
                work()
            finally:
                sys.stdout.flush()
                os._exit(0)
        return pid

    def in_a_child_of_a_process_that_holds(locks, work):
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with contextlib.ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                held.set()
                go_on.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        status = os.waitpid(in_a_child(work), 0)[1]
        go_on.set()
        thread.join()
        assert status == 0
"""


@needs_fork
def test_fork_while_an_exchange_is_under_way(server, path):
    """P1: the child waits for the parent's exchange and adopts its token."""
    code = textwrap.dedent(FORK) + textwrap.dedent(
        """
        manager, session = make()

        def get():
            say(session.get(URL + "/resource").status_code)

        thread = threading.Thread(target=get)
        thread.start()
        hear()
        pid = in_a_child(get)
        say("forked")
        thread.join()
        assert os.waitpid(pid, 0)[1] == 0
        say(manager.stats.exchanges)
        """
    )
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        child.say()
        assert child.hear() == "forked"
        server.wait_for(lambda: server.counters.rejected == 2)  # including the child's
        held.release()
        assert child.end() == (["200", "200", "1"], "", 0)
    assert_saved(server, path)


@needs_fork
def test_fork_while_every_lock_is_held(server, path):
    """P13: the child makes each lock anew that a thread of its parent may hold: it has no such
    thread to release it."""
    code = textwrap.dedent(FORK) + textwrap.dedent(
        """
        manager, session = make(on_refreshed=lambda token: None)
        assert session.get(URL + "/open").status_code == 200
        pools = session.get_adapter(URL).poolmanager
        # No public call holds one of them at a chosen moment.
        locks = [
            manager._queue._condition, manager.futility._lock, manager._announcer._condition,
            manager._uploads._lock, pools.pools.lock, pools.connection_from_url(URL).pool.mutex,
        ]

        def get():
            say(session.get(URL + "/resource").status_code)

        in_a_child_of_a_process_that_holds(locks, get)
        get()
        """
    )
    with Child(server, path, code) as child:
        assert child.end() == (["200", "200"], "", 0)
    assert_saved(server, path)


@needs_fork
@pytest.mark.parametrize("error", ["LookupError", "KeyboardInterrupt"])
def test_fork_if_one_reset_fails(server, path, error):
    """P13: a subclass of the application's may raise in the child, or Ctrl-C may come at that
    moment. Everything else is reset all the same."""
    code = (
        f"error = {error}\n"
        + textwrap.dedent(FORK)
        + textwrap.dedent(
            """
        from requests_silent_refresh.system import forking

        class Broken:
            def after_fork_in_child(self):
                raise error("mine")

        first = Broken()
        forking.reset_in_child(first)
        manager, session = make()
        last = Broken()
        forking.reset_in_child(last)
        in_a_child_of_a_process_that_holds(
            [manager._queue._condition],  # no public call holds it at a chosen moment
            lambda: say(session.get(URL + "/resource").status_code),
        )
        """
        )
    )
    server.revoke_access_tokens()
    with Child(server, path, code) as child:
        said, complaint, status = child.end()
    assert (said, status) == (["200"], 0)
    assert f"{error}: mine" in complaint
    assert_saved(server, path)


@needs_fork
def test_fork_with_a_connection_kept_alive(server, path):
    """P13: if both used it, parent and child would read each other's answers."""
    code = textwrap.dedent(FORK) + textwrap.dedent(
        """
        manager, session = make()

        def port():
            with session.get(URL + "/resource", stream=True) as response:
                port = response.raw.connection.sock.getsockname()[1]
                assert response.json()
                say(port)

        port()
        pid = in_a_child(port)
        assert os.waitpid(pid, 0)[1] == 0
        port()
        """
    )
    with Child(server, path, code) as child:
        (before, in_the_child, after), errors, status = child.end()
        assert (errors, status) == ("", 0)
        assert before == after != in_the_child


@needs_fork
def test_fork_of_a_session_in_memory(server, path):
    """P1: the child uses the access token but never exchanges the parent's refresh token. After a
    sign-in of its own it refreshes."""
    code = textwrap.dedent(FORK) + textwrap.dedent(
        """
        from requests_silent_refresh import MemoryStore, RefreshTokenGrant, StoreError, Token

        grant = RefreshTokenGrant(URL + "/token", "client")

        def refresh(token):
            own = token.access_token.reveal() == "own"
            return Token("next", "next") if own else grant(token)

        manager, session = make(MemoryStore(), refresh)
        manager.sign_in(make()[0].token())

        def work():
            assert session.get(URL + "/open").status_code == 200
            try:
                session.get(URL + "/resource")
            except StoreError as error:
                say("EncryptedFileStore" in str(error))
            manager.sign_in(Token("own", "own"))
            say(manager.renew(manager.token()).access_token.reveal())

        pid = in_a_child(work)
        assert os.waitpid(pid, 0)[1] == 0
        say(session.get(URL + "/resource").status_code)
        """
    )
    with Child(server, path, code) as child:
        said, complaint, returned = child.end()
    assert (said, returned) == (["True", "next", "200"], 0)
    assert complaint.startswith("the refresh failed: MemoryStore() was copied by fork()")
    assert server.counters.exchanges == 1


@needs_fork
def test_fork_of_a_session_in_memory_that_spends_nothing(server, path):
    """P1: the child of a manager with client credentials refreshes, since no refresh token of the
    parent's is spent by that."""
    code = textwrap.dedent(FORK) + textwrap.dedent(
        """
        from requests_silent_refresh import MemoryStore, Token

        def refresh(token):
            return Token(f"of-{os.getpid()}")

        refresh.rotates = refresh.needs_sign_in = False
        manager, _ = make(MemoryStore(), refresh)
        first = manager.token()

        def work():
            token = manager.renew(first)
            say(token.access_token.reveal() == f"of-{os.getpid()}")

        assert os.waitpid(in_a_child(work), 0)[1] == 0
        """
    )
    with Child(server, path, code) as child:
        assert child.end() == (["True"], "", 0)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_that_ends_during_a_background_refresh(server, tmp_path, method):
    """P5: it ends by ``os._exit``, and runs no exit handlers but multiprocessing's own."""
    path = tmp_path / "tokens"
    EncryptedFileStore(path, KEY).save(server.sign_in_token(), after=None)
    script = tmp_path / "script.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent(
            f"""
        import multiprocessing

        def work():
            manager, session = make()
            manager.start_refresh(manager.token())
            while not manager.stats.exchanges:
                time.sleep(0.001)

        if __name__ == "__main__":
            process = multiprocessing.get_context({method!r}).Process(target=work)
            process.start()
            process.join()
            say(process.exitcode)
        """
        )
    )
    with server.token_gate(processed=True) as held:
        child = subprocess.Popen(
            [sys.executable, str(script), str(path), server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(requests_silent_refresh.__file__).parents[1]),
            },
        )
        try:
            assert held.arrived.wait(30)
            held.release()
            assert child.communicate(timeout=60) == ("0\n", "")
        finally:
            child.kill()
            child.communicate()
    assert_saved(server, path)


# -- gevent --------------------------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("gevent"), reason="gevent is not installed")
@pytest.mark.parametrize("ends", ["itself", "by Ctrl-C"])
def test_a_program_patched_by_gevent(server, path, ends):
    """P5, P13: 32 greenlets of a scraper share one exchange, and its exit waits for that."""
    code = f"""
        ends = {ends!r}
        from gevent import monkey
        monkey.patch_all()
        import gevent

        # Python's own handler raises in the greenlet that runs at that moment.
        main = gevent.getcurrent()
        gevent.signal_handler(signal.SIGINT, lambda: main.throw(KeyboardInterrupt))
        manager, session = make()
        session.get_adapter(URL).init_poolmanager(1, 32)
        jobs = [gevent.spawn(session.get, URL + "/resource") for _ in range(32)]

        def say_when_all_wait():
            while manager.stats.waits < 32:
                gevent.sleep(0.01)
            say("waiting")

        gevent.spawn(say_when_all_wait)
        try:
            gevent.joinall(jobs, raise_error=True)
            say({{job.value.status_code for job in jobs}})
        except KeyboardInterrupt:
            say("interrupted")
        say(manager.stats.exchanges)
    """
    with server.token_gate(processed=True) as held, Child(server, path, code) as child:
        assert held.arrived.wait(20)
        assert child.hear() == "waiting"
        if ends == "by Ctrl-C":
            child.interrupt()
            assert child.hear() == "interrupted"
        held.release()
        said, complaint, returned = child.end()
    assert said == (["1"] if ends == "by Ctrl-C" else ["{200}", "1"]), complaint
    assert returned == 0
    assert_saved(server, path)
