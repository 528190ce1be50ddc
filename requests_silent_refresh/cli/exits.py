"""How a command ends: its exit code, and one line on standard error that says what to do."""

from __future__ import annotations

#: The command succeeded.
DONE = 0
#: A failure that no other code covers; ``doctor`` found a problem.
FAILED = 1
#: The arguments are invalid.
USAGE = 2
#: Nobody is signed in, or the session has ended: sign in (again).
SIGNED_OUT = 3
#: The set-up is wrong: profile, issuer, client, key, or a missing extra.
SETUP = 4
#: The server, network or store cannot be reached, or a lock is held. Try again later.
UNAVAILABLE = 5
#: The sign-in was not completed: denied, expired, or the answer belongs to another sign-in.
NOT_COMPLETED = 6
#: Ctrl-C.
INTERRUPTED = 130


def code_for(error: Exception) -> int:
    """Return the exit code for an expected failure."""
    from .. import errors
    from ..profiles import ProfileError
    from ..sign_in.client import SignInFailed
    from ..sign_in.discovery import DiscoveryFailed

    if isinstance(error, errors.SessionExpired):
        return SIGNED_OUT
    if isinstance(error, SignInFailed):
        return UNAVAILABLE if error.transient else NOT_COMPLETED
    if isinstance(error, DiscoveryFailed):
        return UNAVAILABLE if error.transient else SETUP
    if isinstance(
        error, (errors.RefreshUnavailable, errors.RefreshTimeout, errors.StoreUnavailable)
    ):
        return UNAVAILABLE
    setup = (
        errors.RefreshFailed,
        errors.InsecureTransport,
        errors.WrongKey,
        errors.WrongIdentity,
        ProfileError,
    )
    if isinstance(error, (*setup, ValueError, ImportError)):
        return SETUP
    return FAILED


def line_for(what: object) -> str:
    """Return an error, or its message, as one line."""
    return "silent-refresh: " + " ".join((str(what) or type(what).__name__).split())
