"""What arrives at the server and what it answers, as values."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, urlsplit

# Of a longer body only the hash and the length are kept.
KEPT_BODY = 1 << 20


@dataclasses.dataclass(frozen=True, repr=False)
class Request:
    """A request that has arrived whole.

    ``target`` is what stood in the request line; ``path`` is it without query.
    ``body`` holds the first MiB, decoded from chunks; ``body_length`` and
    ``body_sha256`` (hex) are of all of it. ``headers`` compares names without
    regard to case. ``arrived_at`` is by :func:`time.monotonic`.
    """

    method: str
    target: str
    headers: Message
    body: bytes
    body_length: int
    body_sha256: str
    arrived_at: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """The path, without query."""
        return urlsplit(self.target).path or "/"

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's fields."""
        return parse_qs(urlsplit(self.target).query)

    @property
    def bearer(self) -> str | None:
        """The token of ``Authorization: Bearer`` (RFC 6750 section 2.1), else ``None``."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return (token.strip() or None) if scheme.lower() == "bearer" else None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"  # headers, query and body hold tokens


@dataclasses.dataclass(frozen=True, repr=False)
class Answer:
    """An answer, as the server is to send it; change one with :meth:`but`.

    ``headers``
        A mapping or pairs; ``Content-Length`` is reckoned unless given (a wrong
        one together with ``close`` makes a body that ends early).
    ``body``
        Bytes, or an iterable of them, which is sent in chunks as it comes.
    ``trickle``, ``trickle_head``
        Bytes per second at which the body, and the head, crawl out; ``None`` is
        at once.
    ``delay``
        Seconds before the first byte.
    ``close``
        Close the connection after the answer.
    ``drop``
        Close it without an answer.
    ``raw``
        Send these bytes in place of an HTTP answer, and close.
    """

    status: int = 200
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    body: bytes | Iterable[bytes] = b""
    trickle: float | None = None
    trickle_head: float | None = None
    delay: float = 0.0
    close: bool = False
    drop: bool = False
    raw: bytes | None = None

    @classmethod
    def json(
        cls,
        status: int,
        payload: object,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Return an answer whose body is ``payload`` as JSON."""
        pairs = [("Content-Type", "application/json"), *header_pairs(headers)]
        return cls(status, pairs, json.dumps(payload).encode())

    @property
    def payload(self) -> Any:
        """The body read as JSON; raises ``ValueError`` where it is none."""
        return json.loads(self.body if isinstance(self.body, bytes) else b"".join(self.body))

    def but(self, **changes: Any) -> Answer:
        """Return this answer with ``changes``; ``payload=`` stands for the body as JSON."""
        if "payload" in changes:
            changes["body"] = json.dumps(changes.pop("payload")).encode()
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


def header_pairs(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers as a list of pairs; a name may occur more than once."""
    return list(headers.items() if isinstance(headers, Mapping) else headers)
