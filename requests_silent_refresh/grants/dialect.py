"""The words in which servers say what is wrong: codes and descriptions, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .. import arguments
from .answer import EndpointAnswer

Verdict = Literal["granted", "refused", "wrong", "unavailable", "ambiguous"]

# "Sign in again", from RFC 6749 section 5.2, OpenID Connect Core section 3.1.2.6, RFC 6750
# (Spring, Cloud Foundry), RFC 8628, GitHub, Slack, HubSpot, Firebase and Zoho, whose
# "invalid_code" means the refresh token in an exchange that sends no other code.
_REFUSALS = frozenset(
    {
        *("invalid_grant", "invalid_token", "expired_token", "token_expired", "token_revoked"),
        *("interaction_required", "login_required", "consent_required", "token_not_valid"),
        *("bad_refresh_token", "invalid_refresh_token", "refresh_token_expired"),
        *("refresh_token_invalid", "refresh_token_revoked", "expired_refresh_token"),
        *("refresh_token_not_found", "refresh_token_already_used", "refresh_token_reused"),
        *("session_expired", "session_not_found", "user_disabled", "user_not_found"),
        "invalid_code",
    }
)
# RFC 6749 section 5.2 and RFC 8707: they are about the request or the client, and the first
# three also about the refresh token, if the description says so.
_VAGUE_ERRORS = frozenset({"invalid_request", "unauthorized_client", "access_denied"})
_CLIENT_ERRORS = frozenset(
    {"invalid_client", "unsupported_grant_type", "invalid_scope", "invalid_target"}
)
# From RFC 6749 section 4.1.2.1 and RFC 8628; some token endpoints use them as well.
_TRANSIENT_ERRORS = frozenset({"server_error", "temporarily_unavailable", "slow_down"})

_THROTTLED = re.compile(
    r"too.?many.?(?:requests|attempts|calls)|throttl|rate.?limit|slow.?down|quota|retry later"
    r"|try again (?:later|in)|limit.?exceeded",
    re.IGNORECASE,
)
_UNDER_WAY = re.compile(
    r"already (?:being|been) process|being (?:processed|refreshed)|concurrent"
    r"|(?:refresh|request|exchange)\S* (?:is )?(?:already )?(?:in progress|under ?way|pending)",
    re.IGNORECASE,
)
_BAD = (
    r"(?:invalid(?:ated)?|expired|revoked|inactive|not valid|no longer valid|not active|unknown"
    r"|not found|not recogni[sz]ed|unrecogni[sz]ed|blacklisted|does ?n[o']t exist|terminated"
    r"|not exist|deleted|already used|reused)(?![\w-])"
)
_REFRESH_TOKEN = r"refresh[ _-]?token[\"'`]?"  # noqa: S105 (a pattern)
# Not the tokens of another kind, which a request may lack.
_SESSION = (
    r"(?<!access )(?<!access_)(?<!access)(?<!csrf )(?<!csrf)(?<!api )(?<!device )(?<!client )"
    r"(?<!captcha )\b(?:refresh[ _-]?)?(?:token|jwt|session|signature|login)[\"'`]?"
)
_VERB = r"(?:(?:is|was|has|had|could)(?: (?:already|been|either|an|be|not))* )?"


def _is_over(what: str) -> re.Pattern[str]:
    """Return a pattern for "the ... is invalid" and "invalid ..."."""
    return re.compile(
        rf"\b{_BAD}(?:(?:,| or| and)+ \w+){{0,3}} (?:\w+ )?[\"'`]?{what}(?![\w-])"
        rf"|\b{what}(?: \S+)? {_VERB}{_BAD}"
        rf"|\b{what}(?: \S+)? (?:(?:was|has|is|been|already) )+(?:used|consumed|rotated)",
        re.IGNORECASE,
    )


_DEAD_REFRESH_TOKEN = _is_over(_REFRESH_TOKEN)
_DEAD_SESSION = _is_over(_SESSION)
_SIGN_IN_AGAIN = re.compile(
    r"\b(?:sign|log)[ -]?in again|re-?authenti|re-?authori[sz]|re-?login"
    r"|please (?:sign|log)[ -]?in",
    re.IGNORECASE,
)
_ABOUT_REQUEST = re.compile(
    r"\b(?:missing|required|malformed|unsupported|parameter|unknown field|blank|empty|provide"
    r"|must (?:be|have|not)|should (?:be|not)|expected"
    r"|invalid (?:request|field|json|client|api.?key)|api.?key|content.?type|validation)\b",
    re.IGNORECASE,
)

_DESCRIPTIONS = ("error_description", "description", "message")
_CODES = frozenset(
    {"error", "code", "type", "errortype", "errorcode", "status", "reason", "message", "__type"}
    | {"error_code", "suberror", "name", "detail", "msg", "title"}
)
_CODE = re.compile(r"[A-Za-z][\w.:#/-]{2,60}")
_SUBJECTS = ("field", "param", "parameter", "property", "resource", "attribute")


class Dialect:
    """What a server's own words mean, as data: ``{"session_gone": "refused"}``. Immutable.

    A word is an error code, or words of a description, in any case. Raises ``ValueError`` for
    a meaning other than ``"refused"``, ``"wrong"`` and ``"unavailable"``.
    """

    def __init__(self, words: Mapping[str, Any]) -> None:
        for word, verdict in words.items():
            arguments.texts(**{"each word of dialect": word})
            arguments.one_of(("refused", "wrong", "unavailable"), **{f"dialect[{word!r}]": verdict})
        self._words: list[tuple[str, Verdict]] = [(word, words[word]) for word in words]

    def verdict(self, answer: EndpointAnswer) -> Verdict | None:
        """Return what the words of ``answer`` mean; ``None`` if none of them is known."""
        texts = list(_texts(answer.payload))
        for word, verdict in self._words:
            pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
            if any(map(pattern.search, texts)):
                return verdict
        return None


def meaning_of(payload: Mapping[str, Any]) -> Verdict | None:
    """Return what the words of an error mean; ``None`` if they are not known."""
    codes, texts = _codes(payload), list(_texts(payload))
    if codes & _TRANSIENT_ERRORS or is_under_way(payload):
        return "unavailable"
    if codes & _REFUSALS:
        return "refused"
    if any(map(_THROTTLED.search, texts)):
        return "unavailable"
    if codes & _CLIENT_ERRORS:
        return "wrong"
    # "The refresh token is missing or invalid" may be about the request.
    if any(map(_DEAD_REFRESH_TOKEN.search, texts)) and not is_about_request(payload):
        return "refused"
    return "wrong" if codes & _VAGUE_ERRORS else None


def is_under_way(payload: Mapping[str, Any]) -> bool:
    """Return whether another request with this refresh token is still being worked on."""
    return any(map(_UNDER_WAY.search, _texts(payload)))


def is_about_request(payload: Mapping[str, Any]) -> bool:
    """Return whether the words say that the request is incomplete or not allowed as it is."""
    return any(map(_ABOUT_REQUEST.search, _texts(payload)))


def says_session_is_over(payload: Mapping[str, Any]) -> bool:
    """Return whether the words say that a token or session is over."""
    return any(
        pattern.search(text)
        for text in _texts(payload)
        for pattern in (_DEAD_SESSION, _SIGN_IN_AGAIN)
    )


def said(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Return the error code and the description, for people; ``""`` for none."""
    nested = payload.get("error") or payload.get("errors")
    if isinstance(nested, list):
        nested = next(iter(nested), None)
    if isinstance(nested, dict):
        names = ("code", "type", "error", "errorType")
        return _first_text(nested, names), _first_text(nested, _DESCRIPTIONS)
    code = nested if isinstance(nested, str) else ""
    others = ("detail", "msg", "title", "reason", "status", "code", "__type")
    return code, _first_text(payload, (*_DESCRIPTIONS, *others))


def _first_text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), "")


def _codes(payload: Any) -> set[str]:
    """Return the error codes, in lower case, without a namespace (``com.example#Code``)."""
    found = set()
    for key, text in _fields(payload):
        if key.lower() in _CODES and _CODE.fullmatch(text):
            found.add(re.split(r"[#:/.]", text)[-1].lower().replace("-", "_"))
    return found


def _texts(payload: Any) -> Iterator[str]:
    """Yield the texts of an error, and next to them what they are about."""
    for key, text in _fields(payload):
        yield text
        if re.search("(?i)refresh", key):  # {"refresh_token": ["is invalid"]}
            yield f"{key} {text}"
    for nested in _objects(payload):
        subjects = [str(nested[name]) for name in _SUBJECTS if nested.get(name)]
        if subjects:  # {"field": "refresh_token", "code": "invalid"}
            yield from (f"{subjects[-1]} {text}" for _, text in _fields(nested))


def _fields(payload: Any) -> Iterator[tuple[str, str]]:
    for fields in _objects(payload):
        for key, value in fields.items():
            for text in value[:20] if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield str(key), text[:1000]


def _objects(payload: Any, depth: int = 4) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of an error, the outer ones first, within limits."""
    members = payload[:20] if isinstance(payload, list) else [payload]
    for member in members:
        if isinstance(member, Mapping):
            yield member
            for value in [*member.values()][:50] if depth else ():
                yield from _objects(value, depth - 1)
