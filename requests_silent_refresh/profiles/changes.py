"""Changing a profile: settings and session change together, or not at all."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ..errors import StoreUnavailable
from ..jwt import claims_of
from ..keys import as_source
from ..stores.contract import State, StateMoved, TokenStore
from ..stores.moving import copy_state
from ..token import Token
from . import paths, settings
from .profile import Profile, load
from .references import Kept, resolve
from .settings import ProfileError

_TIMEOUT = 10.0  # seconds


class Earlier(NamedTuple):
    """The session that a sign-in replaced, and the profile it belonged to.

    ``token`` is ``None`` if the session is still stored, in another place.
    """

    profile: Profile
    token: Token | None


def check(profile: Profile) -> None:
    """Raise what would keep the next sign-in to ``profile`` from being stored, or from being used.

    Called before a person is asked to sign in. Checks the origins, the place of the settings,
    the store and the key, and stores nothing. Blocks for at most 10 s, plus the time that the
    store takes. Raises ``StoreError`` or :class:`ProfileError`.
    """
    profile.adapter  # noqa: B018 (creates it, so that its arguments are checked)
    with settings.locked(profile.name):
        settings.Draft(profile.name, profile.to_settings()).discard()
    store = opened(profile, load_or_none(profile.name))
    store.load()
    try:
        hold = store.exclusive(_TIMEOUT)
    except StoreUnavailable as held:
        if held.holder is None:
            raise
    else:
        if hold is not None:
            hold.release()
    key: Any = profile.make_key()
    first = key[0] if isinstance(key, list) else key  # the one that encrypts
    if first is not None and not getattr(first, "make", False):
        as_source(first).for_writing(None)


def sign_in(profile: Profile, token: Token) -> Earlier | None:
    """Make ``token`` the profile's session and ``profile`` its settings.

    The last writer wins; settings and session are replaced together, under a
    lock that excludes other sign-ins. If server and client are the same, running
    scripts adopt the new session, as after any sign-in elsewhere. Returns the session
    that was replaced, which the caller should end or revoke; ``None`` if there was none.

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
    with settings.locked(profile.name):
        return _sign_in(profile, token)


def _sign_in(profile: Profile, token: Token) -> Earlier | None:
    previous = load_or_none(profile.name)
    store = opened(profile, previous)
    state = State.first(token, profile.make_grant().identity)
    subject = subject_of(token)
    profile = dataclasses.replace(
        profile, signed_in={"lineage": state.lineage} | ({"subject": subject} if subject else {})
    )
    draft = settings.Draft(profile.name, profile.to_settings())
    replaced = None
    try:
        must_wipe = (
            previous is not None
            and previous.place == profile.place
            and previous.identity != profile.identity
        )
        if must_wipe:
            replaced = wipe(store)
            draft.put_in_place()
        replaced = _replace(store, state) or replaced
        if not must_wipe:
            draft.put_in_place()
    except BaseException:
        draft.discard()
        raise
    if previous is not None and previous.place != profile.place:
        return Earlier(previous, None)
    return None if replaced is None else Earlier(previous or profile, replaced)


def _replace(store: TokenStore, new: State) -> Token | None:
    """Store ``new``, and return the token that it replaced."""
    stored = store.load()
    while True:
        try:
            store.replace(new, after=stored)
        except StateMoved as moved:  # refreshed meanwhile
            stored = moved.state
        else:
            return None if stored is None else stored.token


def opened(profile: Profile, previous: Profile | None) -> TokenStore:
    """Return the profile's store, ready to be written.

    What is stored there may be encrypted with the key of the ``previous`` settings.
    """
    if previous is not None and previous.place == profile.place and previous.key != profile.key:
        profile = dataclasses.replace(profile, key=[*keys_of(profile), *keys_of(previous)])
    store = profile.open_store()
    if hasattr(store, "create_table"):
        store.create_table()
    return store


def move(profile: Profile, new: Profile) -> None:
    """Move the session to the place of ``new``, and make that the profile's settings.

    If this process dies in between, a repeated call completes the move. Blocks for at most 10 s
    for each lock. Raises ``StoreError`` or :class:`ProfileError`.
    """
    with settings.locked(profile.name):
        draft = settings.Draft(new.name, new.to_settings())
        try:
            copy_state(profile.open_store(), opened(new, None), _TIMEOUT)
            draft.put_in_place()
        except BaseException:
            draft.discard()
            raise


def keys_of(profile: Profile) -> list[Any]:
    """Return the references to the profile's keys; the first encrypts."""
    if profile.key is None:
        return [{"key_file": paths.key_file(profile.name), "make": True}]
    return list(profile.key) if isinstance(profile.key, list) else [profile.key]


def forget(profile: Profile) -> None:
    """Remove the profile's settings and its kept secret; the session must have been ended."""
    with settings.locked(profile.name):
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
    secret = resolve(profile.grant.get("client_secret"), profile.name, profile.make_key())
    return secret if isinstance(secret, Kept) else None


def wipe(store: TokenStore) -> Token | None:
    """Replace the stored session with a tombstone, and return the token that was wiped.

    Goes on if the session is refreshed at the same time.
    """
    while (state := store.load()) is not None and state.token is not None:
        try:
            store.clear(after=state)
        except StateMoved:
            continue
        return state.token
    return None


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
