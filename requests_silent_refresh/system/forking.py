"""Resetting objects in a forked child, where the threads that hold their locks do not exist."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object that holds locks or threads and can be reset in a forked child."""

    def after_fork_in_child(self) -> None:
        """Replace every lock and forget every thread; called before other code of the child."""


# Keyed by identity, because an application's subclass may define its own __eq__ and __hash__.
_objects: weakref.WeakValueDictionary[int, Forked] = weakref.WeakValueDictionary()


def reset_in_child(thing: Forked) -> None:
    """Call ``thing.after_fork_in_child()`` in every forked child while ``thing`` exists."""
    _objects[id(thing)] = thing


def _reset_all() -> None:
    failed: BaseException | None = None
    for thing in list(_objects.values()):
        try:
            thing.after_fork_in_child()
        except BaseException as error:  # noqa: BLE001 (the other objects must still be reset)
            failed = error
    if failed is not None:
        raise failed  # Python prints it and continues


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset_all)
