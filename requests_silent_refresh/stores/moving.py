"""``copy_state`` moves a session to another store without spending its refresh token."""

from __future__ import annotations

import dataclasses
import logging

from .. import arguments
from ..errors import StoreError, StoreUnavailable
from .contract import Hold, State, StateMoved, TokenStore, check_stores

logger = logging.getLogger("requests_silent_refresh")


def copy_state(source: TokenStore, target: TokenStore, timeout: float = 10.0) -> None:
    """Move the session in ``source`` to ``target``; ``source`` is then signed out.

    A refresh token must not be in two stores: the first refresh in one of them spends it, and
    the first refresh in the other then revokes the session. So the state is moved. Nothing is
    sent to any server, and the tokens do not change.

    Holds the exclusive locks of both stores, so an exchange that is running ends first, and no
    other one begins. Blocks for at most ``timeout`` seconds for each lock. Afterwards a program
    that still uses ``source`` gets ``SessionExpired``: give it the new store and restart it.

    A repeated call after an error or a crash completes the move. The lineage and generation of
    the states decide how:

    ====================================  ========================================
    ``target`` holds                      what happens
    ====================================  ========================================
    nothing, or an ended session          the state is copied, then ended in
                                          ``source``
    an earlier generation of this         the same: ``source`` was refreshed after
    session                               an attempt that was not completed
    the same generation, or a later one   it has been copied: it is ended in
                                          ``source``
    another session                       ``StoreError``: sign it out first
    ====================================  ========================================

    Raises ``StoreError`` if ``source`` holds no session (and none that was moved to ``target``
    before) or if both stores are the same place, and ``TypeError`` or ``ValueError`` for a wrong
    argument. Also raises the exceptions of the two stores.
    """
    check_stores(source=source, target=target)
    arguments.seconds(timeout=timeout)
    with _locked(source, timeout) as hold:
        if hold.interrupted_at is not None:
            logger.warning(
                "a refresh in %r was cut off: the copied token may be spent already", source
            )
        try:
            locked = _locked(target, timeout)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error}. If it was locked by this process: are both stores the same place?",
                holder=error.holder,
            ) from None
        with locked:
            _move(source, target)


def _move(source: TokenStore, target: TokenStore) -> None:
    """Move the state. Must be called with the exclusive locks of both stores held."""
    state, there = source.load(), target.load()
    if state is None or state.token is None:
        if state is not None and there is not None and there.lineage == state.lineage:
            return  # it was moved before
        raise StoreError(f"{source!r} holds no session to move: sign in first")
    if there is not None and there.token is not None and there.lineage != state.lineage:
        raise StoreError(
            f"{target!r} holds another session, which would be lost: sign out there first"
        )
    if there is not None and there.lineage == state.lineage:
        if there.token is None and there.generation >= state.generation:
            state = _raised_above(there, state, source)
        elif there.generation >= state.generation:
            _end(source, state)
            return
    target.replace(state, after=there)
    _end(source, state)


def _raised_above(tombstone: State, state: State, source: TokenStore) -> State:
    """Give ``state`` the generation after the tombstone that an earlier move left.

    It is stored in the source first, so that both stores hold the same state while
    both have the token.
    """
    raised = dataclasses.replace(state, generation=tombstone.generation + 1)
    source.replace(raised, after=state)
    return raised


def _end(source: TokenStore, state: State) -> None:
    try:
        source.clear(after=state)
    except StateMoved:
        # A sign-in or sign-out during the move: the present state is kept.
        logger.warning("%r was signed in or out while its session was moved: kept as it is", source)


def _locked(store: TokenStore, timeout: float) -> Hold:
    hold = store.exclusive(timeout)
    if hold is None:  # a store breaks its contract: without a state it must wait or raise
        raise StoreUnavailable(f"{store!r} gave no lock: try again")
    return hold
