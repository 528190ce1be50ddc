"""Which of two states of a session goes before the other, and saving one over another."""

from __future__ import annotations

from ..stores.contract import State, StateMoved, TokenStore


def is_newer(state: State | None, known: State | None, *, same_lineage: bool = False) -> bool:
    """Say whether ``state`` replaces ``known``: a later generation, or another sign-in.

    With ``same_lineage`` another sign-in does not count.
    """
    if state is None or known is None:
        return state is not known
    if state.lineage != known.lineage:
        return not same_lineage
    return state.generation > known.generation


def replace(store: TokenStore, new: State, stored: State | None, exchanged: State | None) -> None:
    """Save ``new``, which ``exchanged`` was exchanged for, over ``stored`` by compare-and-set.

    Also replaces an earlier generation than ``exchanged``: the store's engine failed over
    during the exchange, and the refresh token that it went back to is spent. Raises
    ``StateMoved`` if anything else is stored, and what the store raises.
    """
    try:
        store.replace(new, stored)
    except StateMoved as moved:
        if moved.state is None or not is_newer(exchanged, moved.state, same_lineage=True):
            raise
        store.replace(new, moved.state)
