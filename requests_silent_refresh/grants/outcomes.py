"""What the outcome of an exchange means: the whole classification.

===============  ============================================  ==========================
verdict          when                                          the grant
===============  ============================================  ==========================
``granted``      2xx with an access token and no error         returns the token
``refused``      ``invalid_grant``                             raises ``SessionExpired``
``wrong``        any other OAuth error, a redirect, 404, a     raises ``RefreshFailed``
                 request that could not be made
``unavailable``  no connection, timeout, 408, 425, 429, 5xx,   raises
                 400, 401 or 403 without an OAuth error, and   ``RefreshUnavailable``
                 answers that make no sense here
``ambiguous``    the connection was closed after sending       sends once more, then
                                                               ``RefreshUnavailable``
===============  ============================================  ==========================

``refused`` is the only verdict that ends a session, so only the authorization server's own
error code leads to it. A 5xx or 429 does not, whatever its body says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from ..errors import RefreshFailed, RefreshUnavailable, SessionExpired, SilentRefreshError
from .answer import EndpointAnswer, NoAnswer, Outcome, http_date

Verdict = Literal["granted", "refused", "wrong", "unavailable", "ambiguous"]

#: The verdicts that a ``classify`` hook may return, besides ``None`` for the default rules.
VERDICTS: tuple[Verdict, ...] = ("granted", "refused", "wrong", "unavailable")

Classify = Callable[[EndpointAnswer], str | None]

# RFC 6749 section 5.2 and RFC 8707. A 403 with one of these codes comes from the authorization
# server, any other 403 from something in front of it.
_OAUTH_ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
    }
)
# From RFC 6749 section 4.1.2.1 and RFC 8628; some token endpoints use them as well.
_TRANSIENT_ERRORS = frozenset({"server_error", "temporarily_unavailable", "slow_down"})


def by_rfc_6749(answer: EndpointAnswer) -> Verdict:
    """Classify an answer of an OAuth 2.0 token endpoint (RFC 6749 sections 5.1 and 5.2)."""
    payload = answer.payload or {}
    error = payload.get("error")
    code = error if isinstance(error, str) else ""
    if is_busy(answer.status) or code in _TRANSIENT_ERRORS:
        return "unavailable"
    if code == "invalid_grant":
        return "refused"
    if code in _OAUTH_ERRORS or (code and answer.status != 403):
        return "wrong"
    if is_success(answer.status):
        return "granted" if payload.get("access_token") and not error else "unavailable"
    return _by_status(answer.status)


def by_json_dialect(answer: EndpointAnswer) -> Verdict:
    """Classify an answer of an API with its own JSON format, mostly by the status.

    This function does not know where the access token is. The caller must check that a
    ``granted`` answer contains one.
    """
    if is_success(answer.status):
        error = (answer.payload or {}).get("error")
        return "granted" if answer.payload and not error else "unavailable"
    if answer.status in (400, 401) and answer.payload is not None:
        return "refused"
    return _by_status(answer.status)


def of_no_answer(nothing: NoAnswer) -> Verdict:
    """Classify an exchange without an answer."""
    if nothing.kind == "set-up":
        return "wrong"
    return "ambiguous" if nothing.kind == "cut off" else "unavailable"


def _by_status(status: int) -> Verdict:
    if is_busy(status) or status in (400, 401, 403, 407):
        return "unavailable"  # a firewall, a gateway, a captive portal: not the server's verdict
    return "wrong"


def is_busy(status: int) -> bool:
    """Return whether an HTTP status means that the same request may succeed later."""
    return status in (408, 425, 429) or status >= 500


def is_success(status: int) -> bool:
    """Return whether an HTTP status is a 2xx."""
    return 200 <= status < 300


def retry_after(answer: EndpointAnswer) -> float | None:
    """Return the seconds until the server allows a retry (RFC 9110 section 10.2.3).

    A date is compared with the server's own clock if the answer has a ``Date``, so a difference
    to our clock does not matter. Returns ``None`` without a valid ``Retry-After``.
    """
    text = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text[:20], re.ASCII):
        seconds = float(text[:20])
    else:
        moment = http_date(text)
        if moment is None:
            return None
        seconds = moment - answer.server_time
    return max(seconds, 0.0)


def error_for(
    outcome: Outcome,
    verdict: Verdict,
    endpoint: object,
    *,
    doing: str = "refreshed",
    reason: str = "",
) -> SilentRefreshError:
    """Return the error to raise for an ``outcome`` that is not ``granted``.

    ``doing`` completes "the token could not be ..."; ``reason`` is added to the message.
    """
    if isinstance(outcome, NoAnswer):
        return _error_without_answer(outcome, endpoint)
    payload = outcome.payload or {}
    details: dict[str, Any] = {
        "error": payload.get("error"),
        "error_description": payload.get("error_description"),
        "status_code": outcome.status,
        "retry_after": retry_after(outcome),
    }
    words = words_of(SilentRefreshError("", **details))
    said = f"{endpoint} answered {outcome.status}{words}"
    said += reason or ("" if words else _remark(outcome.status))
    if verdict == "refused":
        return SessionExpired(f"the session has ended, sign in again: {said}", **details)
    if verdict == "wrong":
        return RefreshFailed(
            f"the token could not be {doing}: {said}. The session is kept; check the grant's "
            "URL, client and scope",
            **details,
        )
    return RefreshUnavailable(
        f"the token could not be {doing} now: {said}. The session is kept; try again later",
        **details,
    )


def words_of(error: SilentRefreshError) -> str:
    """Return the server's error code and description as `` (code: description)``, or ``""``."""
    words = ": ".join(word for word in (error.error, error.error_description) if word)
    return f" ({words})" if words else ""


def _remark(status: int) -> str:
    if is_success(status):
        return " without a token"
    return ", and redirects are not followed" if 300 <= status < 400 else ""


def _error_without_answer(nothing: NoAnswer, endpoint: object) -> SilentRefreshError:
    detail = f" ({nothing.detail})" if nothing.detail else ""
    failed: SilentRefreshError
    if nothing.kind == "set-up":
        failed = RefreshFailed(
            f"the request to {endpoint} could not be sent{detail}: check the grant's headers, "
            "verify, cert and proxies, and the environment's proxies and CA bundle"
        )
    else:
        what = {
            "unreachable": "cannot be reached",
            "timeout": "did not answer in time",
            "cut off": "closed the connection instead of answering",
            "garbled": "answered something that is not HTTP",
        }[nothing.kind]
        failed = RefreshUnavailable(
            f"{endpoint} {what}{detail}. The session is kept; try again later"
        )
    failed.__cause__ = nothing.cause
    return failed
