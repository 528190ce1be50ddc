"""One token family and many processes on a file store, without failures."""

from __future__ import annotations

import threading

from processes.crowd import KEY, PATIENCE, SECONDS, Crowd

from requests_silent_refresh import EncryptedFileStore
from requests_silent_refresh.testing import AuthorizationServer

PROCESSES, THREADS = 8, 8


def test_8_processes_of_8_threads_exchange_each_token_once(tmp_path):
    """P1, P2: tokens live 1 s, no grace: no needless exchange, no reuse, no failure.

    Two programs of four processes each share one file, like cron and a pre-fork server.
    """
    with AuthorizationServer(access_token_lifetime=1) as server:
        crowd = Crowd(tmp_path, server, threads=THREADS, pause=0.1)
        EncryptedFileStore(crowd.path, KEY).save(server.sign_in_token(), None)
        with crowd.nursery() as one, crowd.nursery() as other:
            for nursery in (one, other):
                for _ in range(PROCESSES // 2):
                    nursery.tell("fork")
            threading.Event().wait(SECONDS)  # the period of the measurement
            server.wait_for(lambda: server.counters.granted > SECONDS / 2, timeout=PATIENCE)
            for nursery in (one, other):
                assert nursery.tell("open") == {"statuses": [0] * (PROCESSES // 2)}
        assert crowd.notes("failed") == []
        ended = crowd.notes("ended")
        assert len({note["process"] for note in ended}) == PROCESSES
        assert all(note["requests"] >= THREADS for note in ended)
        counters = server.counters
        assert counters.reuse_detections == counters.refused == counters.faulted == 0
        assert server.log.overlapping_exchanges() == []
        # A token is due in the last fifth of its lifetime, when it is refreshed ahead.
        assert server.log.unneeded_exchanges(leeway=0.2) == []
        assert counters.exchanges == sum(note["exchanges"] for note in ended)
        assert sum(note["adopted"] for note in ended) > counters.exchanges
    crowd.assert_one_holder_at_a_time()
    crowd.assert_no_generation_falls()
