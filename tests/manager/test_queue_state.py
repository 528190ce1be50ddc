"""Every state of the refresh queue: what leads on from it, and what a thread meets in it."""

from __future__ import annotations

import threading
import time

import pytest
from queue_kit import Clock, Crowd, outcome_of, until

from requests_silent_refresh import RefreshTimeout, RefreshUnavailable, SessionExpired, Token
from requests_silent_refresh.manager.backoff import BACKOFF_CAP
from requests_silent_refresh.manager.current import NOT_LOADED, current_of
from requests_silent_refresh.manager.queue_state import QueueState
from requests_silent_refresh.manager.refresh_queue import RefreshQueue
from requests_silent_refresh.stores.contract import State

IDLE = QueueState.IDLE
REFRESHING = QueueState.REFRESHING
LATE = QueueState.LATE
ASKING = QueueState.ASKING
BACKOFF = QueueState.BACKOFF
DEAD = QueueState.DEAD


class Driven:
    """A queue that holds the token ``old``, and everything that can happen to it."""

    def __init__(self):
        self.clock = Clock()
        self.queue = RefreshQueue(5.0, Clock(), self.clock)
        self.old = Token("old")
        self.batch = None
        self.queue.publish(current_of(State.first(self.old), 0, 0), NOT_LOADED)

    def _publish(self, state):
        assert self.queue.publish(current_of(state, 0, 0), self.queue.current)

    def open(self):
        self.batch = self.queue.open_if_idle(replacing=self.queue.current.token)
        self.batch.awaited = True  # as a request that leads it or joins it notes
        assert self.queue.begin(self.batch)

    def deadline_passes(self):
        self.batch.deadline = time.monotonic()

    def ask(self):
        assert self.queue.ask(self.batch, 300.0)

    def grant(self):
        self.sign_in()
        self.queue.finish(self.batch, self.queue.current.token)

    def fail(self):
        self.queue.finish(self.batch, RefreshUnavailable("busy"))

    def refuse(self):
        self._publish(State("lineage", 2, None))
        self.queue.finish(self.batch, SessionExpired("refused"))

    def end_undecided(self):
        self.queue.finish(self.batch, None)

    def worker_dies(self):
        thread = threading.Thread(target=self.queue.begin, args=(self.batch,))
        thread.start()
        thread.join()

    def time_passes(self):
        self.clock.advance(BACKOFF_CAP)

    def sign_in(self):
        self._publish(State.first(Token("new")))

    def sign_out(self):
        with self.queue.sign_out(ends_session=True):
            self._publish(State("lineage", 2, None))

    def sign_out_without_end(self):
        with self.queue.sign_out(ends_session=False):
            self._publish(State("lineage", 2, None))


def queue_in(state):
    driven = Driven()
    for step in {
        IDLE: [],
        REFRESHING: ["open"],
        LATE: ["open", "deadline_passes"],
        ASKING: ["open", "ask"],
        BACKOFF: ["open", "fail"],
        DEAD: ["open", "refuse"],
    }[state]:
        getattr(driven, step)()
    assert driven.queue.state is state
    return driven


@pytest.mark.parametrize(
    ("before", "happens", "after"),
    [
        (IDLE, "open", REFRESHING),
        (IDLE, "sign_in", IDLE),
        (IDLE, "sign_out", DEAD),
        (IDLE, "sign_out_without_end", IDLE),
        (REFRESHING, "grant", IDLE),
        (REFRESHING, "end_undecided", IDLE),
        (REFRESHING, "worker_dies", IDLE),
        (REFRESHING, "fail", BACKOFF),
        (REFRESHING, "refuse", DEAD),
        (REFRESHING, "ask", ASKING),
        (REFRESHING, "deadline_passes", LATE),
        (REFRESHING, "sign_in", REFRESHING),
        (REFRESHING, "sign_out", DEAD),
        (LATE, "grant", IDLE),
        (LATE, "end_undecided", IDLE),
        (LATE, "worker_dies", IDLE),
        (LATE, "fail", BACKOFF),
        (LATE, "refuse", DEAD),
        (LATE, "ask", ASKING),
        (LATE, "sign_out", DEAD),
        (ASKING, "grant", IDLE),
        (ASKING, "end_undecided", IDLE),
        (ASKING, "worker_dies", IDLE),
        (ASKING, "fail", BACKOFF),
        (ASKING, "refuse", DEAD),
        (ASKING, "deadline_passes", ASKING),
        (ASKING, "sign_out", DEAD),
        (ASKING, "sign_out_without_end", IDLE),
        (BACKOFF, "time_passes", IDLE),
        (BACKOFF, "sign_in", IDLE),
        (BACKOFF, "sign_out", DEAD),
        (DEAD, "time_passes", DEAD),
        (DEAD, "sign_in", IDLE),
        (DEAD, "sign_out", DEAD),
    ],
    ids=lambda value: getattr(value, "value", value),
)
def test_what_leads_from_one_state_to_another(before, happens, after):
    """P6, P8, P9: each transition that ``QueueState`` documents, and each one that it excludes."""
    driven = queue_in(before)
    getattr(driven, happens)()
    assert driven.queue.state is after


def test_a_failure_that_nobody_waited_for_delays_no_request():
    """P7: it only delays other refreshes ahead of time; a request may try at once."""
    driven = Driven()
    driven.open()
    driven.batch.awaited = False
    driven.fail()
    assert driven.queue.state is IDLE
    assert driven.queue.open_if_idle(replacing=driven.old) is None

    def lead(batch):
        driven.batch = batch
        driven.grant()

    assert driven.queue.renew(driven.old, lead) is driven.queue.current.token is not driven.old


def test_a_sign_out_ends_the_wait_for_a_sign_in_when_it_begins():
    """P10: the waiting threads fail before the revocation, and the queue is idle during it."""
    driven = queue_in(ASKING)
    crowd = Crowd(lambda: driven.queue.renew(driven.old, pytest.fail), size=2)
    until(lambda: driven.queue.waits == 2)
    with driven.queue.sign_out(ends_session=True):
        assert crowd.kinds() == {"SessionExpired": 2}
        assert driven.queue.state is IDLE


def test_a_thread_leads_when_the_queue_is_idle():
    """P1: it opens the batch that others join from then on."""
    driven, seen = queue_in(IDLE), []

    def lead(batch):
        driven.queue.begin(batch)
        seen.append(driven.queue.state)
        driven.batch = batch
        driven.grant()

    assert driven.queue.renew(driven.old, lead) is driven.queue.current.token
    assert seen == [REFRESHING]


@pytest.mark.parametrize("state", [REFRESHING, ASKING], ids=lambda state: state.value)
def test_a_thread_joins_the_batch_in_flight(state):
    """P1, P10: it does not lead, and goes on with the token that the batch ends with."""
    driven = queue_in(state)
    crowd = Crowd(lambda: driven.queue.renew(driven.old, pytest.fail), size=2)
    until(lambda: driven.queue.waits == 2)
    assert driven.queue.state is state
    driven.grant()
    assert crowd.outcomes() == [driven.queue.current.token] * 2


@pytest.mark.parametrize(
    ("state", "error"),
    [(LATE, RefreshTimeout), (BACKOFF, RefreshUnavailable), (DEAD, SessionExpired)],
    ids=["late", "backoff", "dead"],
)
def test_a_thread_fails_at_once(state, error):
    """P6, P8, P9: it neither leads nor waits for the 5 s of ``wait_timeout``."""
    driven = queue_in(state)
    began = time.monotonic()
    assert type(outcome_of(lambda: driven.queue.renew(driven.old, pytest.fail))) is error
    assert time.monotonic() - began < 2.5
    assert driven.queue.state is state


@pytest.mark.parametrize("state", QueueState, ids=lambda state: state.value)
def test_which_batches_may_be_opened(state):
    """P4, P15: a background refresh only when idle; a save also in backoff and after the end."""
    driven = queue_in(state)
    current = driven.queue.current.token
    assert (driven.queue.open_if_idle(replacing=current) is not None) is (state is IDLE)
    driven = queue_in(state)
    may_save = state in (IDLE, BACKOFF, DEAD)
    assert (driven.queue.open_if_unled() is not None) is may_save
