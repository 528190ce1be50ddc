"""Choose how many processes run the tests: ``-n auto`` in ``setup.cfg`` asks here."""

from __future__ import annotations

import os

import pytest

#: Beyond this, starting workers and their engines takes longer than it saves.
MOST = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
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
