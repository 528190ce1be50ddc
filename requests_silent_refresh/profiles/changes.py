"""Signing a profile in and out: settings and session change together, or not at all."""

from __future__ import annotations

import dataclasses

from ..stores.contract import State, StateMoved, TokenStore
from ..system.kernel_lock import KernelLock
from ..token import Token, jwt_claims
from . import paths, settings
from .profile import Profile, load
from .references import Kept, resolve
from .settings import ProfileError

_PATIENCE = 10.0  # seconds; the lock is held for a save and a rename


def sign_in(profile: Profile, token: Token) -> Profile | None:
    """Make ``token`` the profile's session and ``profile`` its settings.

    The last one who comes wins, with settings and session both: a lock keeps
    two terminals apart. Running scripts go on with the new session, as they do
    after any sign-in elsewhere, if server and client are the same. Otherwise
    the profile as it was is returned, whose session lies elsewhere and is to be
    ended; ``None`` where there is none.

    What is true if this process dies after each step:

    1. The settings are written beside the old ones: nothing has changed.
    2. Only where another server's or client's session lies in this very place
       (a path or name that the user gave): it is wiped, so that its tokens meet
       no settings but their own. The profile is signed out. The settings go
       before the session then.
    3. The session is saved. With other settings it lies in another file, so the
       old ones still go with the old session.
    4. The settings take their place, by a rename.

    Raises ``StoreError`` or :class:`ProfileError`; then nothing has changed, but
    for a wiped session in step 2. Blocks for 10 s at the most, and what the
    store takes.
    """
    with _alone(profile.name):
        return _sign_in(profile, token)


def _sign_in(profile: Profile, token: Token) -> Profile | None:
    store = profile.open_store()
    if hasattr(store, "create_table"):
        store.create_table()
    previous = _previous(profile.name)
    state = State.first(token)
    subject = subject_of(token)
    profile = dataclasses.replace(
        profile, signed_in={"lineage": state.lineage} | ({"subject": subject} if subject else {})
    )
    draft = settings.Draft(profile.name, profile.to_settings())
    try:
        is_in_the_way = (
            previous is not None
            and previous.place == profile.place
            and previous.identity != profile.identity
        )
        if is_in_the_way:
            wipe(store)
            draft.put_in_place()
        store.replace(state, after=None)
        if not is_in_the_way:
            draft.put_in_place()
    except BaseException:
        draft.discard()
        raise
    return previous if previous is not None and previous.place != profile.place else None


def forget(profile: Profile) -> None:
    """Remove the profile's settings and its kept secret. Its session was ended before."""
    with _alone(profile.name):
        settings.remove(profile.name)
        kept = _kept(profile)
        if kept is not None:
            kept.forget()


def rotate_kept(profile: Profile) -> None:
    """Encrypt the profile's kept secret, if it has one, with the newest key."""
    kept = _kept(profile)
    if kept is not None:
        kept.rotate_key()


def _kept(profile: Profile) -> Kept | None:
    secret = resolve(profile.grant.get("client_secret"), profile.name)
    return secret if isinstance(secret, Kept) else None


def wipe(store: TokenStore) -> None:
    """Replace whatever session is stored by the tombstone."""
    while (state := store.load()) is not None and state.token is not None:
        try:
            store.clear(after=state)
        except StateMoved:
            continue


def subject_of(token: Token) -> str | None:
    """Return who signed in, as the ID token says or else a JWT access token; unverified.

    For people to read, never to decide by.
    """
    for text in (token.extra.get("id_token"), token.access_token.reveal()):
        claims = jwt_claims(text)
        for claim in ("email", "preferred_username", "sub"):
            value = claims.get(claim)
            if isinstance(value, str) and value.isprintable():
                return value[:200]
    return None


def _previous(name: str) -> Profile | None:
    try:
        return load(name)
    except ProfileError:
        return None  # there is none, or one that cannot be used and is to be replaced


class _alone:  # noqa: N801 (used as a function)
    """Hold the profile's lock, which only those who change its settings take."""

    def __init__(self, name: str) -> None:
        self._lock = KernelLock(paths.settings_file(name) + ".lock")

    def __enter__(self) -> None:
        try:
            self._lock.acquire(_PATIENCE)
            self._lock.sign()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *error: object) -> None:
        self._lock.release()
