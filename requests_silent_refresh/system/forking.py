"""What a forked child must forget: locks whose holders are threads of its parent."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that holds locks or threads and can start anew in a child."""

    def after_fork_in_child(self) -> None:
        """Replace every lock and drop every thread; called before the child runs anything."""


# By identity: a subclass of the application's may compare its adapters as it likes.
_objects: weakref.WeakValueDictionary[int, Forked] = weakref.WeakValueDictionary()


def reset_in_child(thing: Forked) -> None:
    """Have ``thing.after_fork_in_child()`` called in each forked child while it lives."""
    _objects[id(thing)] = thing


def _reset_all() -> None:
    failed: BaseException | None = None
    for thing in list(_objects.values()):
        try:
            thing.after_fork_in_child()
        except BaseException as error:  # noqa: BLE001 (the others must not keep a dead lock for it)
            failed = error
    if failed is not None:
        raise failed  # which Python prints, and goes on


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_reset_all)
