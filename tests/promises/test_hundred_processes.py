"""A crowd of processes that find an expired token at the same time."""

from __future__ import annotations

import time

from processes.crowd import KEY, Crowd

from requests_silent_refresh import EncryptedFileStore, Token
from requests_silent_refresh.testing import AuthorizationServer

PROCESSES = 100


def test_100_processes_share_one_exchange(tmp_path):
    """P1, P2: 100 processes need a new token at the same time: one exchange serves all of them."""
    with AuthorizationServer(latency=0.2) as server:
        crowd = Crowd(tmp_path, server, threads=0, wait_timeout=60.0)
        expired = Token.from_response({**server.sign_in(), "expires_at": time.time() - 1})
        EncryptedFileStore(crowd.path, KEY).save(expired, None)
        with crowd.nursery() as nursery:
            for _ in range(PROCESSES):
                nursery.tell("fork")
            crowd.wait_for("ready", PROCESSES)
            assert nursery.tell("open") == {"statuses": [0] * PROCESSES}
        assert crowd.notes("failed") == []
        assert server.counters.exchanges == server.counters.granted == 1
        assert (server.counters.requests, server.counters.rejected) == (PROCESSES, 0)
        assert sum(note["exchanges"] for note in crowd.notes("ended")) == 1
    crowd.assert_one_holder_at_a_time()
