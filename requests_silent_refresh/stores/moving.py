"""``copy_state``: a session moves to another store without spending its refresh token."""

from __future__ import annotations

import logging

from ..errors import StoreError, StoreUnavailable
from .contract import Hold, State, StateMoved, TokenStore

logger = logging.getLogger("requests_silent_refresh")


def copy_state(source: TokenStore, target: TokenStore, timeout: float = 10.0) -> None:
    """Take the session in ``source`` to ``target``; ``source`` is left signed out.

    A refresh token must not be in two stores: the first refresh at one of them
    spends it, and the first at the other then revokes the session. So this is a
    move. Nothing is sent to any server, and the tokens stay what they are.

    Both stores' exclusive locks are held meanwhile, so an exchange under way ends
    first, and none begins; each is waited for ``timeout`` seconds. Afterwards a
    program that still uses ``source`` is told ``SessionExpired``: give it the new
    store, then start it.

    Done again after an error or a crash it ends what was begun. The states' lineage
    and generation say what that is:

    ====================================  ========================================
    in ``target`` there is                what happens
    ====================================  ========================================
    nothing, or an ended session          the state is copied, then ended in
                                          ``source``
    an earlier generation of this         the same: ``source`` was refreshed after
    session                               an attempt that did not get further
    the same generation, or a later one   it was copied before: it is ended in
                                          ``source``
    another session                       ``StoreError``: sign it out first
    ====================================  ========================================

    Raises ``StoreError`` where ``source`` holds no session (none that was moved to
    ``target`` before, that is), where both are one and the same place, and as the
    stores do.
    """
    with _locked(source, timeout) as hold:
        if hold.interrupted_at is not None:
            logger.warning(
                "a refresh in %r was cut off: what is copied may be spent already", source
            )
        try:
            locked = _locked(target, timeout)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error}. If that is this very process: are both stores one and the same place?",
                holder=error.holder,
            ) from None
        with locked:
            _move(source, target)


def _move(source: TokenStore, target: TokenStore) -> None:
    """Move the state; the exclusive locks of both stores are held."""
    state, there = source.load(), target.load()
    if state is None or state.token is None:
        if state is not None and there is not None and there.lineage == state.lineage:
            return  # moved before
        raise StoreError(f"{source!r} holds no session that could be moved: sign in first")
    if there is not None and there.token is not None and there.lineage != state.lineage:
        raise StoreError(
            f"{target!r} holds another session, which would be lost: sign it out first"
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
    """Give ``state`` a generation after that of the tombstone that an earlier move left.

    In the source first: as long as both have it, it is the same state in both.
    """
    raised = State(state.lineage, tombstone.generation + 1, state.token)
    source.replace(raised, after=state)
    return raised


def _end(source: TokenStore, state: State) -> None:
    try:
        source.clear(after=state)
    except StateMoved:
        # Somebody signed in or out there meanwhile: that is another session, and stays.
        logger.warning("%r was signed in or out while its session was moved", source)


def _locked(store: TokenStore, timeout: float) -> Hold:
    hold = store.exclusive(timeout)
    if hold is None:  # without a state to compare it is given or raises
        raise StoreUnavailable(f"{store!r} gave no lock: try again")
    return hold
