"""Changing a profile: settings and session change together, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from ..jwt import claims_of
from ..stores.contract import State, StateMoved, TokenStore
from ..system.kernel_lock import KernelLock
from ..token import Token
from . import paths, settings
from .profile import Profile, load
from .references import Kept, resolve
from .settings import ProfileError

_TIMEOUT = 10.0  # seconds; the lock is held only for a save and a rename


def sign_in(profile: Profile, token: Token) -> Profile | None:
    """Make ``token`` the profile's session and ``profile`` its settings.

    The last writer wins; settings and session are replaced together, under a
    lock that excludes other sign-ins. If server and client are the same, running
    scripts adopt the new session, as after any sign-in elsewhere. Otherwise the
    profile's old session is in another place: the old profile is returned, and
    the caller should end that session. Returns ``None`` if there is none.

    The state if this process dies after each step:

    1. The settings are written beside the old ones: nothing has changed.
    2. Only if the session of another server or client is stored in the same
       place (a path or name that the user gave): that session is wiped and step
       4 comes before step 3, so that its tokens are never combined with the new
       settings. The profile is signed out.
    3. The session is saved. If server or client changed, it is in another file,
       so the old settings still refer to the old session.
    4. The settings are renamed into place.

    Raises ``StoreError`` or :class:`ProfileError`; then nothing has changed,
    except that step 2 may have wiped a session. Blocks for at most 10 s, plus
    the time the store takes.
    """
    with _locked(profile.name):
        return _sign_in(profile, token)


def _sign_in(profile: Profile, token: Token) -> Profile | None:
    store = profile.open_store()
    if hasattr(store, "create_table"):
        store.create_table()
    previous = load_or_none(profile.name)
    state = State.first(token, profile.make_grant().identity)
    subject = subject_of(token)
    profile = dataclasses.replace(
        profile, signed_in={"lineage": state.lineage} | ({"subject": subject} if subject else {})
    )
    draft = settings.Draft(profile.name, profile.to_settings())
    try:
        must_wipe = (
            previous is not None
            and previous.place == profile.place
            and previous.identity != profile.identity
        )
        if must_wipe:
            wipe(store)
            draft.put_in_place()
        store.replace(state, after=None)
        if not must_wipe:
            draft.put_in_place()
    except BaseException:
        draft.discard()
        raise
    return previous if previous is not None and previous.place != profile.place else None


def forget(profile: Profile) -> None:
    """Remove the profile's settings and its kept secret; the session must have been ended."""
    with _locked(profile.name):
        settings.remove(profile.name)
        kept = _kept(profile)
        if kept is not None:
            kept.forget()


def rotate_kept(profile: Profile) -> None:
    """Encrypt the profile's kept secret, if any, with the newest key."""
    kept = _kept(profile)
    if kept is not None:
        kept.rotate_key()


def _kept(profile: Profile) -> Kept | None:
    secret = resolve(profile.grant.get("client_secret"), profile.name)
    return secret if isinstance(secret, Kept) else None


def wipe(store: TokenStore) -> None:
    """Replace the stored session with a tombstone, even if it is refreshed at the same time."""
    while (state := store.load()) is not None and state.token is not None:
        try:
            store.clear(after=state)
        except StateMoved:
            continue


def subject_of(token: Token) -> str | None:
    """Return who signed in, from the ID token or else from a JWT access token.

    Returns ``None`` if neither says. The claim is unverified: show it to people,
    but never make a decision with it.
    """
    for text in (token.extra.get("id_token"), token.access_token.reveal()):
        claims = claims_of(text)
        for claim in ("email", "preferred_username", "sub"):
            value = claims.get(claim)
            if isinstance(value, str) and value.isprintable():
                return value[:200]
    return None


def load_or_none(name: str) -> Profile | None:
    """Return the stored profile; ``None`` if there is none or its settings cannot be used."""
    try:
        return load(name)
    except ProfileError:
        return None


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the lock for changes of a profile's settings; waits at most 10 s to get it."""
    lock = KernelLock(paths.settings_file(name) + ".lock")
    try:
        lock.acquire(_TIMEOUT)
        lock.sign()
        yield
    finally:
        lock.release()
