"""What the outcome of an exchange means: the whole classification.

===============  ============================================  ==========================
verdict          when                                          the grant
===============  ============================================  ==========================
``granted``      2xx with an access token                      returns the token
``refused``      ``invalid_grant`` and its dialects, nested    raises ``SessionExpired``
                 or in a 2xx without a token; any other
                 words that say that the refresh token is
                 invalid, expired, revoked or used
``wrong``        any other OAuth error, a redirect, 404, a     raises ``RefreshFailed``
                 request that is incomplete or could not be
                 made
``unavailable``  no connection, timeout, 408, 425, 429, 5xx,   raises
                 throttling under any status, 400, 401 or 403  ``RefreshUnavailable``
                 without an OAuth error, and answers that
                 make no sense here
``ambiguous``    the connection was closed after sending       sends again, then
                                                               ``RefreshUnavailable``
===============  ============================================  ==========================

``refused`` is the only verdict that ends a session, so only the authorization server's own
words lead to it (:mod:`.dialect`). A 5xx or 429 does not, whatever its body says. An access
token in a 2xx is used whatever else the answer says, because the refresh token behind it is
spent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import RefreshFailed, RefreshUnavailable, SessionExpired, SilentRefreshError
from ..redaction import Secret, masked
from . import dialect
from .answer import EndpointAnswer, NoAnswer, Outcome, http_date
from .dialect import Verdict

#: The verdicts that a ``classify`` hook may return, besides ``None`` for the default rules.
VERDICTS: tuple[Verdict, ...] = ("granted", "refused", "wrong", "unavailable")

Classify = Callable[[EndpointAnswer], str | None]


def by_rfc_6749(answer: EndpointAnswer) -> Verdict:
    """Classify an answer of an OAuth 2.0 token endpoint (RFC 6749 sections 5.1 and 5.2).

    Every object in a 2xx is ``granted``, and so is one with a token in a header or cookie. If
    the caller finds no access token in it, the answer means what :func:`without_token` returns.
    """
    return "granted" if _may_have_token(answer) else without_token(answer)


def without_token(answer: EndpointAnswer) -> Verdict:
    """Classify an answer without an access token by its error code, else by its status."""
    code, _ = said_by(answer)
    return _by_words(answer) or (
        "wrong" if code and answer.status != 403 else _by_status(answer.status)
    )


def by_json_dialect(answer: EndpointAnswer) -> Verdict:
    """Classify an answer of an API with its own JSON format, where words are less certain.

    A 401 with an object is a refusal, unless its words are about the request; a 400 only if
    they say that a token or session is over. A 2xx is as in :func:`by_rfc_6749`.
    """
    if _may_have_token(answer):
        return "granted"
    if answer.status not in (400, 401) or answer.payload is None:
        return _by_words(answer) or _by_status(answer.status)
    if known := _by_words(answer):
        return known
    if dialect.is_about_request(answer.payload):
        return "wrong"
    ended = answer.status == 401 or dialect.says_session_is_over(answer.payload)
    return "refused" if ended else "wrong"


def _may_have_token(answer: EndpointAnswer) -> bool:
    attached = answer.cookies or "Authorization" in answer.headers
    return is_success(answer.status) and bool(answer.payload or attached)


def _by_words(answer: EndpointAnswer) -> Verdict | None:
    """Classify an answer by its status if that means "busy", else by words that are known."""
    if is_busy(answer.status):
        return "unavailable"
    return dialect.meaning_of(answer.payload or {})


def is_under_way(outcome: Outcome) -> bool:
    """Return whether the server is still working on another request with this refresh token."""
    return isinstance(outcome, EndpointAnswer) and dialect.is_under_way(outcome.payload or {})


def said_by(answer: EndpointAnswer) -> tuple[str, str]:
    """Return the error code and the description in an answer, nested or not; ``""`` for none."""
    return dialect.said(answer.payload or {})


def of_no_answer(nothing: NoAnswer) -> Verdict:
    """Classify an exchange without an answer."""
    if nothing.kind == "set-up":
        return "wrong"
    return "ambiguous" if nothing.kind == "cut off" else "unavailable"


def _by_status(status: int) -> Verdict:
    if is_busy(status) or is_success(status) or status in (400, 401, 403, 407):
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
    hide: Iterable[Secret] = (),
) -> SilentRefreshError:
    """Return the error to raise for an ``outcome`` that is not ``granted``.

    ``doing`` completes "the token could not be ..."; ``reason`` is added to the message if the
    server gave none. ``hide`` lists the secrets that were sent: servers quote them.
    """
    if isinstance(outcome, NoAnswer):
        return _error_without_answer(outcome, endpoint, hide)
    details = details_of(outcome, hide)
    words = words_of(SilentRefreshError(**details))
    said = f"{endpoint} answered {outcome.status}{words}"
    said += "" if words else reason or _remark(outcome.status)
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


def details_of(answer: EndpointAnswer, hide: Iterable[Secret]) -> dict[str, Any]:
    """Return what an answer says, as keywords for an error, with the secrets ``hide`` masked."""
    code, description = (masked(words, hide) for words in said_by(answer))
    return {
        "error": code,
        "error_description": description,
        "status_code": answer.status,
        "retry_after": retry_after(answer),
    }


def words_of(error: SilentRefreshError) -> str:
    """Return the server's error code and description as `` (code: description)``, or ``""``."""
    words = ": ".join(word for word in (error.error, error.error_description) if word)
    return f" ({words})" if words else ""


def _remark(status: int) -> str:
    if is_success(status):
        return " without a token"
    return ", and redirects are not followed" if 300 <= status < 400 else ""


def _error_without_answer(
    nothing: NoAnswer, endpoint: object, hide: Iterable[Secret]
) -> SilentRefreshError:
    detail = f" ({masked(nothing.detail, hide)})" if nothing.detail else ""
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
