"""A model of the session is compared with the server's log in random interleavings (hypothesis).

Managers in this process and in forked children share one file; the server rotates.
Each step occurs in deployments: requests from a crowd, an expiry, an early revocation,
an outage, a lost answer, a sign-in or sign-out in any process, also during an exchange.
The promises are checked against the server's log after each step.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_kit import Clock, Crowd, assert_no_token_was_spent_twice, outcome_of

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    Token,
    TokenManager,
)
from requests_silent_refresh.testing import AuthorizationServer

KEY = b"k" * 43 + b"="
LIFETIME = 100
WAIT = 5.0

Process = Bundle("process")


class Here:
    """A manager in this process, with a session for a crowd."""

    def __init__(self, server, path, clock):
        self.clock = clock
        self.url = server.url
        self.manager = TokenManager(
            RefreshTokenGrant(
                server.token_endpoint,
                "client",
                revocation_endpoint=server.revocation_endpoint,
                clock=clock,
            ),
            EncryptedFileStore(path, KEY),
            wait_timeout=WAIT,
            refresh_ahead=0,
            clock=clock,
            monotonic=clock,
        )
        self.session = requests.Session()
        SilentRefreshAdapter(self.manager, server.url, pool_maxsize=4).mount_on(self.session)

    def get(self, crowd=1):
        """Send ``crowd`` requests at once; return sorted statuses or errors, and the seconds."""
        began = time.monotonic()
        work = lambda: self.session.get(self.url + "/resource")  # noqa: E731
        outcomes = [outcome_of(work)] if crowd == 1 else Crowd(work, size=crowd).outcomes()
        return sorted(map(_name, outcomes)), time.monotonic() - began

    def sign_in(self, fields):
        self.manager.sign_in(Token.from_dict(fields))

    def sign_out(self):
        self.manager.sign_out()

    def advance(self, now):
        self.clock.now = now

    def close(self):
        self.session.close()


def _name(outcome):
    if isinstance(outcome, requests.Response):
        return str(outcome.status_code)
    return type(outcome).__name__


class Forked:
    """The same in a forked child, which executes the calls sent to it."""

    def __init__(self, parent: Here):
        self._pipe, theirs = multiprocessing.Pipe()
        self._lock = threading.Lock()
        self._pid = os.fork()
        if self._pid == 0:
            with contextlib.suppress(BaseException):
                # Another thread may have been writing to pytest's log at the fork. The lock
                # inside that file then stays locked here, and nothing can replace it.
                logging.disable(logging.CRITICAL)
                self._pipe.close()
                self._serve(parent, theirs)
            os._exit(0)
        theirs.close()

    @staticmethod
    def _serve(here, pipe):
        while (order := pipe.recv()) is not None:
            name, arguments = order
            pipe.send(outcome_of(lambda: getattr(here, name)(*arguments)))  # noqa: B023

    def _call(self, name, *arguments):
        with self._lock:
            self._pipe.send((name, arguments))
            assert self._pipe.poll(30), "the child gave no answer"
            answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, crowd=1):
        return self._call("get", crowd)

    def sign_in(self, fields):
        self._call("sign_in", fields)

    def sign_out(self):
        self._call("sign_out")

    def advance(self, now):
        self._call("advance", now)

    def close(self):
        # Closing the pipe is not enough: a child forked later holds a copy of this end.
        self._pipe.send(None)
        self._pipe.close()
        os.waitpid(self._pid, 0)


class Sessions(RuleBasedStateMachine):
    """The model: whether there is a session, and whether the token endpoint is busy."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.server = AuthorizationServer(
            clock=self.clock, access_token_lifetime=LIFETIME, grace=10
        ).start()
        self.path = Path(self.directory.name, "tokens")
        self.processes = []
        self.signed_in = False
        self.busy = False
        self.seen = 0
        self.slowest = 0.0

    def teardown(self):
        for process in self.processes:
            process.close()
        self.server.stop()
        self.directory.cleanup()

    # -- steps ---------------------------------------------------------------------

    @initialize(target=Process)
    def begin(self):
        here = Here(self.server, self.path, self.clock)
        here.sign_in(self.server.sign_in_token().to_dict())
        self.signed_in = True
        self.processes.append(here)
        return here

    @rule(target=Process)
    @precondition(lambda self: len(self.processes) == 1)
    def another_manager(self):
        self.processes.append(Here(self.server, self.path, self.clock))
        return self.processes[-1]

    @rule(target=Process, parent=Process)
    @precondition(lambda self: len(self.processes) == 2)
    def fork(self, parent):
        if isinstance(parent, Forked):
            parent = self.processes[0]
        self.processes.append(Forked(parent))
        return self.processes[-1]

    @rule(process=Process, crowd=st.sampled_from([1, 1, 4]))
    def request(self, process, crowd):
        before = self.server.counters
        outcomes, seconds = process.get(crowd)
        self.slowest = max(self.slowest, seconds)
        after = self.server.counters
        if self.signed_in and not self.busy:
            # P2: if an earlier backoff is still active, the request succeeds after it.
            if "RefreshUnavailable" in outcomes:
                self.advance(60)
                outcomes, _ = process.get(crowd)
                after = self.server.counters
            assert outcomes == ["200"] * crowd
            assert after.exchanges - before.exchanges <= 1
        elif not self.signed_in:
            assert outcomes == ["SessionExpired"] * crowd
            assert after.exchanges == before.exchanges  # P9
        else:
            assert set(outcomes) <= {"200", "RefreshUnavailable"}  # P7

    @rule(seconds=st.sampled_from([1, LIFETIME // 2, LIFETIME - 1, LIFETIME + 1, 1000]))
    def time_passes(self, seconds):
        self.advance(seconds)

    @rule()
    def early_revocation(self):
        self.server.revoke_access_tokens()

    @rule()
    @precondition(lambda self: not self.busy)
    def outage(self):
        self.busy = True
        self.server.fault("token", times=None, status=503)

    @rule()
    @precondition(lambda self: self.busy)
    def end_of_the_outage(self):
        self.busy = False
        self.server.clear_faults()

    @rule(process=Process)
    @precondition(lambda self: self.signed_in and not self.busy)
    def an_answer_is_lost(self, process):
        """The server rotates and the connection drops; the second try is in the grace window."""
        self.advance(60)
        self.server.revoke_access_tokens()
        self.server.fault("token", drop="after")
        outcomes, _ = process.get()
        self.server.clear_faults()
        assert outcomes == ["200"]

    @rule(process=Process)
    def sign_in(self, process):
        process.sign_in(self.server.sign_in_token().to_dict())
        self.signed_in = True
        # A manager whose session is dead reads the store at most once a second, in one thread;
        # in a backoff, it does so afterwards.
        self.advance(60)
        for other in self.processes:
            outcomes, _ = other.get()
            assert outcomes == ["200"] or (self.busy and outcomes == ["RefreshUnavailable"])

    @rule(process=Process)
    def sign_out(self, process):
        process.sign_out()
        self.signed_in = False
        # The other managers use their token until its 401 (P9); the server ends it here.
        self.server.revoke_access_tokens()
        self.advance(60)

    @rule(data=st.data(), event=st.sampled_from(["sign in", "sign out", "join", "fork"]))
    @precondition(lambda self: self.signed_in and not self.busy and len(self.processes) > 1)
    def something_during_an_exchange(self, data, event):
        """One process refreshes, and another acts before the answer is sent."""
        leading, other = data.draw(st.permutations(self.processes))[:2]
        self.advance(60)
        self.server.revoke_access_tokens()
        for process in (leading, other):  # both now have the same token, unexpired by its times
            assert process.get()[0] == ["200"]
        self.server.revoke_access_tokens()
        with self.server.token_gate(processed=True) as held:
            crowd = Crowd(leading.get, size=1)
            assert held.arrived.wait(10)
            if event == "sign in":
                other.sign_in(self.server.sign_in_token().to_dict())
            elif event == "sign out":
                other.sign_out()
                self.signed_in = False
            elif event == "fork" and isinstance(leading, Here):
                child = Forked(leading)
                joining = Crowd(child.get, size=1)
                self.server.wait_for(lambda: self.server.log[-1].status == 401)
            else:
                joining = Crowd(other.get, size=1)
                self.server.wait_for(lambda: self.server.log[-1].status == 401)
            rejected = self.server.counters.rejected
        ((outcomes, seconds),) = crowd.outcomes()
        self.slowest = max(self.slowest, seconds)
        if event in ("join", "fork"):
            ((joined, _),) = joining.outcomes()
            assert outcomes == joined == ["200"]
            assert self.server.counters.rejected == rejected
        elif event == "sign in":
            assert outcomes == ["200"]
        if event == "fork" and isinstance(leading, Here):
            child.close()
        if event == "sign out":
            # The leader may end its refresh before or after it sees the sign-out.
            assert outcomes in (["SessionExpired"], ["200"])
            self.server.revoke_access_tokens()
        self.advance(60)

    def advance(self, seconds):
        self.clock.advance(seconds)
        for process in self.processes:
            if isinstance(process, Forked):
                process.advance(self.clock.now)

    # -- promises --------------------------------------------------------------------

    @invariant()
    def no_token_is_spent_twice(self):
        """P1, from the server's log."""
        assert_no_token_was_spent_twice(self.server)
        refused = self.server.log.of("exchange", outcome="refused")
        assert {event.reason for event in refused} <= {"revoked"}

    @invariant()
    def nothing_older_than_the_stored_token_is_accepted_after_it(self):
        """P4: after a newer token was accepted, no older one of its family is accepted."""
        newest = {}
        for event in self.server.log.of("resource"):
            if event.family is None or event.status != 200:
                continue
            assert event.access >= newest.get(event.family, 0), "an older token was used"
            newest[event.family] = event.access

    @invariant()
    def what_is_stored_is_the_newest(self):
        """P4, P5: the store holds the last token that the server issued to the family."""
        if not self.processes:
            return
        state = EncryptedFileStore(self.path, KEY).load()
        assert (state.token is not None) is self.signed_in
        if state.token is not None:
            # The log shows the token's serial number and family, even if it gets a 401.
            headers = {"Authorization": f"Bearer {state.token.access_token.reveal()}"}
            requests.get(self.server.resource, headers=headers, timeout=10)
            stored = self.server.log.of("resource")[-1]
            issued = [
                e.issued_access
                for e in self.server.log
                if e.issued_access and e.family == stored.family
            ]
            assert stored.access == max(issued)

    @invariant()
    def no_request_waited_past_the_deadline(self):
        """P8: requests wait for at most ``WAIT`` seconds."""
        assert self.slowest < WAIT + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_random_interleavings_keep_the_promises():
    """P1, P2, P4, P7, P8, P9, P10 after each of many random steps."""
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
