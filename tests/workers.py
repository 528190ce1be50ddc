"""Divide the tests among processes of pytest-xdist; ``addopts`` in ``setup.cfg`` asks for it."""

from __future__ import annotations

import os
import re

import pytest

#: More workers than this take longer to start than they save.
MOST = 4

#: Files that start engines or crowds of processes. One worker runs them all, one after
#: the other: the engines are started once, and no crowd is slowed down by another.
CROWDED = re.compile(
    r"tests/promises/test_(fleet|kill_storm|many_processes|hundred_processes)"
    r"|tests/stores/test_(fleet|redis|sql)_store|tests/stores/test_(moving|stalled|rejected)"
    r"|tests/docs/test_fleet|tests/platforms"
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Return one worker for each processor, and none for a run of single files.

    A worker takes seconds to start, as long as most files run. Without workers
    ``-s`` shows what a test prints, too.
    """
    single = all(".py" in argument for argument in config.args)
    if single or config.option.capture == "no":
        return 0
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return min(processors, MOST) if processors > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Return a scheduler that gives each worker whole files, and the crowded ones to one."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "crowded" if CROWDED.search(nodeid) else super()._split_scope(nodeid)

        def _assign_work_unit(self, node):
            if "crowded" in self.workqueue:  # the longest begins first
                self.workqueue.move_to_end("crowded", last=False)
            super()._assign_work_unit(node)

    return Scheduler(config, log)
