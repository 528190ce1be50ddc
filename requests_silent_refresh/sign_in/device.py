"""Sign in on another device: the device authorization grant (RFC 8628)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from ..origin import Origin
from ..token import Token
from .client import Client, SignInFailed

_INTERVAL = 5.0  # seconds, where the server does not say (section 3.2)
_SLOW_DOWN = 5.0  # seconds more, each time it says so (section 3.5)
_LONGEST_INTERVAL = 60.0
_LONGEST_WAIT = 3600.0
_STEP = 1.0  # seconds between two calls of `waiting`


@dataclasses.dataclass(frozen=True)
class DeviceCode:
    """What a person has to do: visit ``verification_uri`` and enter ``user_code``.

    ``verification_uri_complete`` has the code in it already; ``None`` where the
    server gives none. ``expires_in``: seconds from its receipt.
    """

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_in: float


def with_device(
    client: Client,
    device_authorization_endpoint: str,
    show: Callable[[DeviceCode], object],
    waiting: Callable[[float], object],
    *,
    timeout: float | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> Token:
    """Have a person sign in on any device with a browser, and return the token.

    ``show(code)`` is called once; then ``waiting(seconds)`` every second with how
    long the code is still good. The token endpoint is polled no more often than
    the server wants: its interval, 5 s more after each ``slow_down``, twice the
    interval after each poll that got no answer (section 3.5).

    Blocks until the code expires, or for ``timeout`` seconds. Raises
    :class:`SignInFailed`; ``ValueError`` for a URL that cannot be meant. Uses
    ``oauthlib`` (extra ``cli``). ``monotonic`` and ``pause`` are for tests.
    """
    from oauthlib.oauth2 import DeviceClient

    protocol = DeviceClient(client.client_id)
    form = {"scope": " ".join(client.scope), **client.parameters}
    request = urlencode({name: value for name, value in form.items() if value})
    answer = client.post(
        device_authorization_endpoint, request, name="device_authorization_endpoint"
    )
    received = monotonic()
    code, device_code, interval = _read(answer)
    lifetime = code.expires_in if timeout is None else min(code.expires_in, timeout)
    show(code)
    body = protocol.prepare_request_body(device_code)
    until = received + lifetime
    while True:
        _wait(interval, until, waiting, monotonic, pause)
        try:
            return client.redeem(body)
        except SignInFailed as failure:
            interval = _next_interval(failure, interval)


def _wait(
    interval: float,
    until: float,
    waiting: Callable[[float], object],
    monotonic: Callable[[], float],
    pause: Callable[[float], object],
) -> None:
    """Wait for the next poll; raise where the code is over before."""
    poll_at = monotonic() + interval
    while (now := monotonic()) < poll_at:
        if now >= until:
            raise _too_late()
        waiting(until - now)
        pause(min(_STEP, poll_at - now, until - now))
    if monotonic() >= until:
        raise _too_late()


def _next_interval(failure: SignInFailed, interval: float) -> float:
    """Return how long to wait before the next poll; raise ``failure`` where there is none."""
    if failure.error == "authorization_pending":
        return interval
    if failure.error == "slow_down":
        return interval + _SLOW_DOWN
    if failure.error == "access_denied":
        failure.args = ("the sign-in was denied on the other device",)
    elif failure.error == "expired_token":
        failure = _too_late()
    elif failure.transient:
        return min(2 * interval, max(interval, _LONGEST_INTERVAL))
    raise failure


def _too_late() -> SignInFailed:
    return SignInFailed(
        "nobody entered the code before it expired: start the sign-in again for a new one",
        error="expired_token",
    )


def _read(answer: Mapping[str, Any]) -> tuple[DeviceCode, str, float]:
    """Read the device authorization response (section 3.2)."""
    texts = {name: answer.get(name) for name in ("device_code", "user_code")}
    # An older name, still in use.
    uri = answer.get("verification_uri") or answer.get("verification_url")
    complete = answer.get("verification_uri_complete")
    missing = [name for name, value in texts.items() if not isinstance(value, str) or not value]
    if missing or not _is_page(uri):
        raise SignInFailed(
            "the device authorization endpoint answered without a usable "
            f"{', '.join(missing) or 'verification_uri'}"
        )
    code = DeviceCode(
        _printable(texts["user_code"]),
        _printable(uri),
        _printable(complete) if _is_page(complete) else None,
        _seconds(answer.get("expires_in"), 600.0, _LONGEST_WAIT),
    )
    interval = _seconds(answer.get("interval"), _INTERVAL, _LONGEST_INTERVAL)
    return code, str(texts["device_code"]), interval


def _is_page(uri: object) -> bool:
    origin = Origin.of(uri) if isinstance(uri, str) else None
    return origin is not None and origin.scheme in ("https", "http")


def _printable(text: Any) -> str:
    """Keep a server's text from steering the terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:2000]


def _seconds(value: Any, default: float, most: float) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return default
    return min(seconds, most) if seconds > 0 else default
