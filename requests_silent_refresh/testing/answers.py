"""The requests that the server receives and the answers it sends, as values."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

KEPT_BODY = 1 << 20  # bytes; of the rest of a body only the hash and the length are kept

Headers = Mapping[str, str] | Iterable[tuple[str, str]]  # pairs may repeat a name

#: Keeps tokens out of caches (RFC 6749 section 5.1).
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclasses.dataclass(frozen=True, repr=False)
class Request:
    """A complete request.

    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> with AuthorizationServer() as server:
    ...     server.on("/open", lambda request, answer: print(request.method, request.query))
    ...     response = requests.get(server.url + "/open?page=2")
    GET {'page': ['2']}

    ``target`` is the target in the request line. ``headers`` ignores the case of names.
    ``body`` is the first MiB of the body, decoded from chunks; ``body_length`` and
    ``body_sha256`` (hex) describe the whole body. ``arrived_at`` is the time of arrival
    by :func:`time.monotonic`.
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
        """The path, without the query."""
        return urlsplit(self.target).path or "/"

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's fields."""
        return parse_qs(urlsplit(self.target).query)

    @property
    def form(self) -> list[tuple[str, str]]:
        """The fields of the body, if it is a form; a name may occur more than once."""
        return parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)

    @property
    def bearer(self) -> str | None:
        """The token in ``Authorization: Bearer`` (RFC 6750 section 2.1); ``None`` without one."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return (token.strip() or None) if scheme.lower() == "bearer" else None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"  # headers, query and body hold tokens


@dataclasses.dataclass(frozen=True, repr=False)
class Answer:
    """An answer that the server sends.

    >>> Answer.json(401, {"error": "expired"}).but(payload={"error": "revoked"}).payload
    {'error': 'revoked'}

    ``headers``
        A mapping or pairs. ``Content-Length`` is computed unless given; a wrong
        one together with ``close`` makes a body that ends early.
    ``body``
        Bytes, or an iterable of bytes, which is sent in chunks.
    ``trickle``, ``trickle_head``
        Bytes per second at which the body and the head are sent; ``None`` means
        at full speed.
    ``delay``
        Seconds before the first byte.
    ``close``, ``drop``, ``raw``
        Close the connection after the answer, without an answer, or after sending
        these bytes instead of an HTTP answer.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | Iterable[bytes] = b""
    trickle: float | None = None
    trickle_head: float | None = None
    delay: float = 0.0
    close: bool = False
    drop: bool = False
    raw: bytes | None = None

    @classmethod
    def json(cls, status: int, payload: object, headers: Headers = ()) -> Answer:
        """Return an answer whose body is ``payload`` as JSON."""
        pairs = [("Content-Type", "application/json"), *header_pairs(headers)]
        return cls(status, pairs, json.dumps(payload).encode())

    @property
    def payload(self) -> Any:
        """The body parsed as JSON; raises ``ValueError`` if it is not JSON."""
        return json.loads(self.body if isinstance(self.body, bytes) else b"".join(self.body))

    def but(self, **changes: Any) -> Answer:
        """Return a copy with ``changes``; ``payload=`` sets the body to that value as JSON."""
        if "payload" in changes:
            changes["body"] = json.dumps(changes.pop("payload")).encode()
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


def header_pairs(headers: Headers) -> list[tuple[str, str]]:
    """Return the headers as a list of pairs; a name may occur more than once."""
    return list(headers.items() if isinstance(headers, Mapping) else headers)


#: The answer at an unknown path.
NOT_FOUND = Answer.json(404, {"error": "there is nothing at this path"})
