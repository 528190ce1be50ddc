"""A redirect that nobody listens to: a person pastes the address that the browser ended at."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from .client import SignInFailed
from .redirect import STEP, is_response


class PastedRedirect:
    """Waits until a person pastes the authorization response.

    For a browser on another machine than the command (SSH, a container), and for redirect URIs
    that nothing on this machine can serve, such as https ones. Used like
    :class:`~.redirect.LoopbackRedirect`.

    ``redirect_uri``
        As registered, http or https. It is sent as it is.
    ``state``
        The value that the response must contain (RFC 6749 section 10.12).
    ``read_line``
        ``read_line(seconds)`` returns the next line, ``""`` when there will be none, and
        ``None`` if there was none within that time.
    ``say``
        Called with a sentence for the person when a line is of no use.

    Raises ``ValueError`` for another kind of URI.
    """

    def __init__(
        self,
        redirect_uri: str,
        state: str,
        read_line: Callable[[float], str | None],
        say: Callable[[str], object],
    ) -> None:
        parts = urlsplit(redirect_uri)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError(
                f"{redirect_uri!r} is not a redirect URI: give the https or http URL that is "
                "registered for the client"
            )
        self.uri = redirect_uri
        self._state = state
        self._read_line = read_line
        self._say = say

    def __enter__(self) -> PastedRedirect:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def wait(self, timeout: float, waiting: Callable[[float], object]) -> str:
        """Wait for the address and return its query, whose ``state`` has been checked.

        Calls ``waiting`` with the seconds left, twice a second. Raises :class:`SignInFailed`
        after ``timeout`` seconds, and if no line will come any more.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            waiting(left)
            line = self._read_line(min(left, STEP))
            if line == "":
                raise SignInFailed("the address that the browser ended at was not pasted")
            if not line or not line.strip():
                continue
            address = line.strip().strip("'\"<>")
            query = urlsplit(address).query or address
            if is_response(query, self._state):
                return query
            self._say(
                "This is not the response to this sign-in: copy the whole address from the "
                "browser, from https:// to the end."
            )
        raise SignInFailed(f"nobody signed in within {timeout:g} s: start the sign-in again")

    def conclude(self, title: str, text: str) -> None:
        """Do nothing: no browser waits for a page."""
