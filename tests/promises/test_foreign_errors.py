"""P12: what callables and stores of users raise may quote secrets, and is told without its text."""

from __future__ import annotations

import threading

import pytest
from canaries import SECRET
from queue_kit import session_for

from requests_silent_refresh import (
    EncryptedFileStore,
    JSONRefresh,
    MemoryStore,
    RefreshTokenGrant,
    SessionExpired,
    SilentRefreshError,
    StoreUnavailable,
    Token,
    TokenManager,
)
from requests_silent_refresh.stores.contract import Hold
from requests_silent_refresh.system.foreign import secrets_of
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def server():
    with AuthorizationServer(client_secret=SECRET) as server:
        yield server


class Foreign(Exception):
    """Keeps what it was given in an attribute too, as errors of database drivers do."""

    def __init__(self, text):
        super().__init__(text)
        self.statement, self.params = text, [text]


KINDS = [Foreign, ValueError, OSError, KeyError, SystemExit, StoreUnavailable, SessionExpired]


def outcome_of(work):
    """Return what ``work()`` returns or raises, whatever that is."""
    try:
        return work()
    except BaseException as error:
        return error


def quoting(channels, kind):
    """Return a callable that raises ``kind`` with all known secrets in its text."""

    def raising(*arguments, **options):
        given = [getattr(argument, "token", argument) for argument in arguments]
        tokens = [channels.add_token(token) for token in given if isinstance(token, Token)]
        known = sorted(channels.canaries)
        if issubclass(kind, SilentRefreshError):
            # The text of these is for people; what is in play at that moment is masked.
            known = [secret.reveal() for secret in secrets_of(*tokens)]
        text = f"parameters: {known}"
        try:
            raise Foreign(text)
        except Foreign as cause:
            raise kind(text) from cause

    return raising


@pytest.fixture(autouse=True)
def silent_exit(monkeypatch):
    """Ignore SystemExit in a thread, as Python does and pytest's own hook does not."""
    hook = threading.excepthook
    monkeypatch.setattr(
        threading, "excepthook", lambda args: args.exc_type is SystemExit or hook(args)
    )


def use(manager, server, channels):
    """Do all that an application does, and look at what it gets."""
    with session_for(manager, server) as session:
        for _ in range(2):
            for ask in (
                lambda: session.get(server.resource),
                lambda: session.post(server.resource, data=iter([b"x"])),
                lambda: manager.signed_in,
                lambda: manager.sign_in(channels.add_token(server.sign_in_token())),
                lambda: manager.renew(manager.token()),
            ):
                outcome = outcome_of(ask)
                if isinstance(outcome, Exception):
                    channels.look_into(outcome)
                elif isinstance(outcome, Token):
                    channels.add_token(outcome)
            server.revoke_access_tokens()
        outcome_of(manager.sign_out)
    outcome_of(lambda: manager.finish(10))
    for thing in (manager, manager.stats, *vars(manager).values()):
        channels.look_at(thing)


def grant_for(server, **options):
    return RefreshTokenGrant(
        server.token_endpoint,
        "client",
        options.pop("client_secret", SECRET),
        revocation_endpoint=server.revocation_endpoint,
        **options,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "callable_",
    [
        *("refresh", "revoke", "on_session_expired", "on_refreshed", "on_event", "classify"),
        *("client_secret", "extra", "headers", "key"),
    ],
)
def test_no_callable_tells_a_secret(server, channels, callable_, kind, tmp_path):
    """Each callable raises each kind of exception, with every known secret in it."""
    raising = quoting(channels, kind)
    refresh, store, options = grant_for(server), MemoryStore(), {}
    if callable_ == "refresh":
        refresh = raising
    elif callable_ == "revoke":
        refresh = lambda token, grant=refresh: grant(token)  # noqa: E731
        refresh.revoke = raising
    elif callable_ == "on_session_expired":
        options["on_session_expired"] = raising
        server.fault("token", status=400, body='{"error": "invalid_grant"}', times=None)
    elif callable_.startswith("on_"):
        options[callable_] = raising
    elif callable_ == "key":
        store = EncryptedFileStore(tmp_path / "tokens", raising)
    elif callable_ == "headers":
        refresh = JSONRefresh(server.token_endpoint, headers={"X-Key": raising})
    else:
        refresh = grant_for(
            server, **{callable_: {"x": raising} if callable_ == "extra" else raising}
        )
    manager = TokenManager(refresh, store, refresh_ahead=0, **options)
    outcome_of(lambda: manager.sign_in(channels.add_token(server.sign_in_token())))
    use(manager, server, channels)


class Raising(Hold):
    """A lock whose method ``named`` raises."""

    def __init__(self, hold, named, raising):
        self._hold, self.named, self.raising = hold, named, raising

    def release(self):
        self._hold.release()
        if self.named == "release":
            self.raising()

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "named") and name != "release":
            return object.__getattribute__(self, "raising")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method",
    [
        *("load", "save", "replace", "clear", "exclusive"),
        *("begin", "still_held", "extend", "unanswered", "release"),
    ],
)
def test_no_store_tells_a_secret(server, channels, method, kind):
    """Each method of a store and of its lock raises each kind of exception likewise."""
    raising = quoting(channels, kind)
    armed = []

    class Store(MemoryStore):
        def exclusive(self, timeout, after=None):
            hold = super().exclusive(timeout, after)
            return Raising(hold, method, raising) if hold is not None and armed else hold

    if method in vars(MemoryStore) or method in ("save", "clear"):

        def arming(self, *arguments, **options):
            if armed:
                raising(*arguments, *options.values())
            return getattr(super(Store, self), method)(*arguments, **options)

        setattr(Store, method, arming)
    store = Store()
    manager = TokenManager(grant_for(server), store, refresh_ahead=0, wait_timeout=2)
    manager.sign_in(channels.add_token(server.sign_in_token()))
    armed.append(True)
    try:
        use(manager, server, channels)
    finally:
        armed.clear()
        manager.finish(10)
