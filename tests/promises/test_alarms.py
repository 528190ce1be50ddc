"""A signal handler that raises, at any bytecode of a request's thread, leaves nothing behind (P8).

Programs bound their requests by ``signal.setitimer``, and Ctrl-C in a notebook is the same: the
exception comes at a random moment. ``ALARMS=100000`` runs as many as that, instead of 0.6 s of
them for each kind of request.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import random
import signal
import socket
import threading
import time

import coverage
import pytest
import requests
import urllib3
from queue_kit import assert_no_token_was_spent_twice, until
from requests.adapters import BaseAdapter, HTTPAdapter
from wire import manager_of

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    SessionExpired,
    SilentRefreshAdapter,
    Token,
    TokenManager,
)
from requests_silent_refresh.keys import generate_key

API = "https://api.example.com"
ALARMS = int(os.environ.get("ALARMS", "0"))
KINDS = 6

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no interval timer"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # what was cut short, left open
    # An alarm in a finalizer or a weak reference's callback cannot be raised.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Alarm(Exception):
    """What the handler raises, once for each time that it is armed."""

    armed = False


def ring(number, frame):
    # The kernel may hand the signal to another thread, and it arrives late then.
    if Alarm.armed:
        Alarm.armed = False
        raise Alarm


@pytest.fixture(autouse=True)
def alarms():
    """Raise ``Alarm`` for SIGALRM.

    Nothing is logged or measured, because the locks of logging's handlers and of coverage's
    data are entered in Python.
    """
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.stop()
    before = signal.signal(signal.SIGALRM, ring)
    loggers = [logging.getLogger(name) for name in ("requests_silent_refresh", "urllib3")]
    for logger in loggers:
        logger.disabled = True
    yield
    signal.signal(signal.SIGALRM, before)
    for logger in loggers:
        logger.disabled = False
    if measured is not None:
        measured.start()


def is_cut_short(work, seconds):
    """Call ``work`` with an alarm after ``seconds``; return whether it came before the end."""
    try:
        Alarm.armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
        Alarm.armed = False
    except Alarm:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False


def storm(work, *, prepare=lambda: None, check=lambda cut: None):
    """Call ``work`` again and again, each time with an alarm at a random moment of it."""
    moments = random.Random(work.__name__)
    durations = []
    for _ in range(3):  # the first ones may take longer
        prepare()
        began = time.monotonic()
        work()
        durations.append(time.monotonic() - began)
        check(cut=False)
    longest = 1.5 * min(durations)
    came = 0
    while came < ALARMS // KINDS if ALARMS else time.monotonic() < began + 0.6:
        prepare()
        cut = is_cut_short(work, moments.uniform(2e-6, longest))
        came += cut
        check(cut)
    return came


@contextlib.contextmanager
def company(manager):
    """Let two threads refresh meanwhile. Afterwards all is over: nobody hangs, all is saved."""
    stop, ended = threading.Event(), []

    def run():
        token = None
        while not stop.wait(0.002):
            try:
                token = manager.renew(token)
            except SessionExpired:
                token = None
        ended.append(True)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(15)
    assert len(ended) == 2, "another thread hangs"
    assert manager.finish(10)
    gc.collect()
    assert manager._uploads.under_way == 0  # no public name: a refresh ahead would wait for ever


class Issuer:
    """A refresh callable whose tokens name their sign-in; no refresh token may come twice."""

    def __init__(self):
        self.spent = set()
        self._numbers = itertools.count()

    def sign_in(self, family):
        number = next(self._numbers)
        return Token(f"{family}", f"{family}.{number}")

    def __call__(self, token):
        refresh_token = token.refresh_token.reveal()
        assert refresh_token not in self.spent
        self.spent.add(refresh_token)
        return self.sign_in(refresh_token.partition(".")[0])


class Stub(BaseAdapter):
    """A transport that answers at once."""

    def send(self, request, **how):
        response = requests.Response()
        response.status_code = 200
        response.request, response.url = request, request.url
        response._content, response._content_consumed = b"", True
        return response

    def close(self):
        pass


class Unpooled(HTTPAdapter):
    """A transport with a real connection for each request.

    Pools are left out: urllib3 enters their locks in Python, and hangs itself after an alarm.
    """

    def send(self, request, **how):
        url = urllib3.util.parse_url(request.url)
        connection = urllib3.connection.HTTPConnection(url.host, url.port, timeout=10)
        connection.request(
            request.method,
            url.path,
            headers={**request.headers, "Connection": "close"},
            preload_content=False,
        )
        return self.build_response(request, connection.getresponse())


def test_a_late_401():
    """P3, P8: the other threads' refreshes go on."""
    issuer = Issuer()
    manager = TokenManager(issuer)
    manager.sign_in(issuer.sign_in("a"))
    late = manager.token()
    manager.renew(late)

    def renew_late():
        for _ in range(3):
            manager.renew(late)

    with company(manager):
        storm(renew_late)


def test_a_refresh():
    """P5, P8: a thread that leads a refresh, or waits for it, leaves it to the others."""
    issuer = Issuer()
    manager = TokenManager(issuer, refresh_ahead=0)
    manager.sign_in(issuer.sign_in("a"))

    def refresh():
        manager.renew(manager.token())

    with company(manager):
        storm(refresh)
    assert manager.token() is manager._queue.current.token


def test_an_upload():
    """P15: no upload is counted that is over."""
    issuer = Issuer()
    manager = TokenManager(issuer)
    manager.sign_in(issuer.sign_in("a"))
    adapter = SilentRefreshAdapter(manager, API, transport=Stub())
    request = requests.Request("POST", API, data=iter([b"x"])).prepare()

    def upload():
        adapter.send(request)

    with company(manager):
        storm(upload)


def descriptors():
    """Count the open descriptors that no socket object owns, which would close it some time."""
    gc.collect()
    owned = sum(s.fileno() >= 0 for s in gc.get_objects() if type(s) is socket.socket)
    return len(os.listdir("/proc/self/fd")) - owned


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors by /proc")
def test_a_drained_401(server):
    """P2, P8: no descriptor is lost, and no watch believes that it runs; nothing is spent twice."""
    manager = manager_of(server)
    adapter = SilentRefreshAdapter(manager, server.url, transport=Unpooled())
    numbers = itertools.count()

    def get():
        # A path of its own, since one that rejects token after token is given up.
        url = f"{server.resource}/{next(numbers)}"
        response = adapter.send(requests.Request("GET", url).prepare())
        assert response.json()["path"]
        response.close()

    storm(get, prepare=server.revoke_access_tokens)
    until(lambda: "silent-refresh-drain" not in {t.name for t in threading.enumerate()})
    before = descriptors()
    with company(manager):
        storm(get, prepare=server.revoke_access_tokens)
    until(lambda: descriptors() <= before, timeout=10)
    server.revoke_access_tokens()
    get()
    assert_no_token_was_spent_twice(server)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_sign_in_and_a_sign_out(kind, tmp_path):
    """P4: what is stored is the new session or the old one, and the new one once it returned."""
    store = MemoryStore() if kind == "memory" else None
    store = store or EncryptedFileStore(tmp_path / "tokens", generate_key())
    issuer = Issuer()
    manager = TokenManager(issuer, store)
    families = itertools.count(1)
    possible = {"0"}
    manager.sign_in(issuer.sign_in("0"))
    family = "0"

    def stored():
        token = store.load().token
        return None if token is None else token.access_token.reveal()

    def begin():
        nonlocal family
        family = None if family is not None and int(family) % 3 == 2 else str(next(families))

    def sign_in_or_out():
        if family is None:
            manager.sign_out()
        else:
            manager.sign_in(issuer.sign_in(family))

    def end(cut):
        possible.add(family)
        if not cut:
            possible.intersection_update([family])
        assert stored() in possible
        possible.intersection_update([stored()])

    with company(manager):
        storm(sign_in_or_out, prepare=begin, check=end)
    manager.sign_in(issuer.sign_in("last"))
    assert stored() == "last"
    assert manager.renew(manager.token()).access_token.reveal() == "last"
