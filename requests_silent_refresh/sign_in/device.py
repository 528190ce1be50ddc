"""Sign-in on another device: the device authorization grant (RFC 8628)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from ..errors import printable
from ..origin import Origin
from ..token import Token
from .client import Client, SignInFailed

_INTERVAL = 5.0  # seconds between polls if the server gives no interval (section 3.2)
_SLOW_DOWN = 5.0  # seconds added to the interval by each slow_down (section 3.5)
_LONGEST_INTERVAL = 60.0
_LONGEST_WAIT = 3600.0
_LONGEST_TEXT = 2000
_STEP = 1.0  # seconds between calls of `waiting`


@dataclasses.dataclass(frozen=True)
class DeviceCode:
    """What a person has to do: visit ``verification_uri`` and enter ``user_code``.

    ``verification_uri_complete`` already contains the code; it is ``None`` if the server gives
    none. ``expires_in`` is in seconds from the receipt of the code.
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
    """Let a person sign in on any device with a browser, and return the token.

    ``show(code)`` is called once, then ``waiting(seconds)`` every second with the time left
    until the code expires. The token endpoint is polled no faster than the server allows: each
    ``slow_down`` adds 5 s to its interval, and each poll without an answer doubles it, up to
    60 s (section 3.5).

    Blocks until the code expires, or for at most ``timeout`` seconds. Raises
    :class:`SignInFailed`, and ``ValueError`` for an invalid URL. Uses ``oauthlib`` (extra
    ``cli``). ``monotonic`` and ``pause`` are for tests.
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
    """Wait until the next poll; raises :class:`SignInFailed` if the code expires before it."""
    poll_at = monotonic() + interval
    while (now := monotonic()) < min(poll_at, until):
        waiting(until - now)
        pause(min(_STEP, poll_at - now, until - now))
    if now >= until:
        raise _too_late()


def _next_interval(failure: SignInFailed, interval: float) -> float:
    """Return the seconds to wait before the next poll; raise ``failure`` if it is final."""
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
        "nobody entered the code before it expired: start the sign-in again to get a new code",
        error="expired_token",
    )


def _read(answer: Mapping[str, Any]) -> tuple[DeviceCode, str, float]:
    """Read the device authorization response (section 3.2)."""
    texts = {name: answer.get(name) for name in ("device_code", "user_code")}
    # "verification_url" is an older name that is still in use.
    uri = answer.get("verification_uri") or answer.get("verification_url")
    complete = answer.get("verification_uri_complete")
    missing = [name for name, value in texts.items() if not isinstance(value, str) or not value]
    if missing or not _is_page(uri):
        raise SignInFailed(
            "the device authorization endpoint answered without a usable "
            f"{', '.join(missing) or 'verification_uri'}"
        )
    code = DeviceCode(
        printable(str(texts["user_code"])[:_LONGEST_TEXT]),
        printable(str(uri)[:_LONGEST_TEXT]),
        printable(str(complete)[:_LONGEST_TEXT]) if _is_page(complete) else None,
        _seconds(answer.get("expires_in"), 600.0, _LONGEST_WAIT),
    )
    interval = _seconds(answer.get("interval"), _INTERVAL, _LONGEST_INTERVAL)
    return code, str(texts["device_code"]), interval


def _is_page(uri: object) -> bool:
    origin = Origin.of(uri) if isinstance(uri, str) else None
    return origin is not None and origin.scheme in ("https", "http")


def _seconds(value: Any, default: float, most: float) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return default
    return min(seconds, most) if seconds > 0 else default
