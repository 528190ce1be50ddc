"""``RejectedBy``: for APIs that do not answer 401 to an expired token."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import urllib3
from requests import Response

from .. import arguments
from .challenge import rejects_token

_LIMIT = 64 * 1024


@dataclasses.dataclass(frozen=True)
class RejectedBy:
    """Says by its status, or by an error code in its body, that a response rejects the token.

    >>> expired = RejectedBy(codes=["token_expired"])
    >>> adapter = SilentRefreshAdapter(manager, "https://api.example.com", is_rejected=expired)

    ``statuses``
        Those that reject the token, unless ``WWW-Authenticate`` says that no refresh helps.
    ``codes``
        Error codes that reject it under any status, as GraphQL and Slack send them in a 200:
        the value of ``error``, ``code``, ``type`` or ``status``, at the top or nested. Only
        JSON of at most 64 KiB with a ``Content-Length`` is looked at; the body stays unread
        for the application, streaming or not.

    Immutable, picklable and thread-safe. Raises ``TypeError`` or ``ValueError`` for other values.
    """

    statuses: Iterable[int] = (401,)
    codes: Iterable[str] = ()

    def __post_init__(self) -> None:
        arguments.instances(Iterable, "several", statuses=self.statuses, codes=self.codes)
        arguments.instances((list, tuple, set, frozenset), "a list", codes=self.codes)
        statuses, codes = tuple(self.statuses), tuple(self.codes)
        arguments.instances(
            int, "a status, such as 403", **{f"statuses: {s!r}": s for s in statuses}
        )
        arguments.texts(**{f"codes: {code!r}": code for code in codes})
        object.__setattr__(self, "statuses", statuses)
        object.__setattr__(self, "codes", codes)

    def __call__(self, response: Response) -> bool:
        """Return whether ``response`` rejects the token."""
        if response.status_code in self.statuses:
            return rejects_token(response.headers.get("WWW-Authenticate"))
        return bool(self.codes) and any(code in self.codes for code in _codes_in(response))


def _codes_in(response: Response) -> Iterator[str]:
    length = response.headers.get("Content-Length", "")
    if "json" not in response.headers.get("Content-Type", "") or not length.isdecimal():
        return iter(())
    if int(length) > _LIMIT or response.headers.get("Content-Encoding", "identity") != "identity":
        return iter(())
    try:
        return _codes(json.loads(_peek(response)))
    except (ValueError, RecursionError):
        return iter(())


def _peek(response: Response) -> bytes:
    """Read the body and put it back."""
    if response._content_consumed:  # private, but requests itself goes by it
        return response.content
    body: bytes = response.raw.read(_LIMIT, decode_content=False)
    raw: Any = response.raw
    response.raw = urllib3.HTTPResponse(
        body=io.BytesIO(body),
        headers=raw.headers,
        status=raw.status,
        version=raw.version,
        reason=raw.reason,
        preload_content=False,
        original_response=raw._original_response,  # requests reads the cookies from it
    )
    return body


def _codes(value: Any, depth: int = 4) -> Iterator[str]:
    members = value[:20] if isinstance(value, list) else [value]
    for member in members:
        if isinstance(member, dict):
            for name, inner in member.items():
                if isinstance(inner, str) and name in ("error", "code", "type", "status"):
                    yield inner
                elif depth:
                    yield from _codes(inner, depth - 1)
