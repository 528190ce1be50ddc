"""Ending a session: the server revokes it (RFC 7009), and the store forgets it."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from ..errors import SilentRefreshError
from ..stores.contract import StateMoved
from ..token import Token
from .profile import Profile


class Ended(NamedTuple):
    """What became of a session.

    ``was_signed_in`` is whether there was one. ``unrevoked`` says why the server has not been
    told; ``None`` if it has been, or if there was no session.
    """

    was_signed_in: bool
    unrevoked: str | None


def end(profile: Profile) -> Ended:
    """Revoke the profile's session at the server and wipe it here, even if the server fails.

    An interruption of the revocation is raised after the session was wiped. Blocks for at most
    the grant's ``timeout``, plus the time the store takes. Raises ``StoreError`` if the store
    cannot be read or changed.
    """
    store = profile.open_store()
    while (state := store.load()) is not None and state.token is not None:
        try:
            unrevoked = revoke(profile, state.token)
        except BaseException:
            with contextlib.suppress(StateMoved):
                store.clear(after=state)
            raise
        try:
            store.clear(after=state)
        except StateMoved:  # refreshed or signed in meanwhile: end that one as well
            continue
        return Ended(True, unrevoked)
    return Ended(False, None)


def set_aside(profile: Profile) -> str | None:
    """Move tokens that cannot be read out of the way, and return where they are.

    Nothing is revoked. Returns ``None`` if nothing was stored. Raises ``StoreError``.
    """
    store: Any = profile.open_store()  # every store that a profile can have has reset()
    aside: str | None = store.reset()
    return aside


def revoke(profile: Profile, token: Token) -> str | None:
    """Revoke ``token``, and return why that was not possible; ``None`` if it was.

    Blocks for at most the grant's ``timeout``.
    """
    try:
        revoked = profile.make_grant().revoke(token)
    except (SilentRefreshError, OSError, ValueError, LookupError) as error:
        return str(error)
    return None if revoked else "its settings name no revocation endpoint"
