"""Puts the token into a cookie or the query of a request, where no log and no error shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import arguments

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool, PoolManager

    _Pool = HTTPConnectionPool
else:
    _Pool = object

#: The header in which the adapter hands the token to its own connections.
CARRIER = "X-Silent-Refresh-Token"


def checked(cookie: str | None, query_parameter: str | None, transport: object) -> bool:
    """Check the arguments; return whether the token travels elsewhere than in a header."""
    given = arguments.given(cookie=cookie, query_parameter=query_parameter)
    arguments.header_tokens(**given)
    if len(given) > 1:
        raise ValueError("cookie and query_parameter: the token travels in one place only")
    if given and transport is not None:
        raise ValueError(
            f"{next(iter(given))} needs the adapter's own connections, because another transport "
            "would log and show the token: leave out transport"
        )
    return bool(given)


def place(manager: PoolManager, cookie: str | None, query_parameter: str | None) -> None:
    """Make the connections of ``manager`` move the token from its header to its place.

    Without a place, and at a second call, nothing changes.
    """
    fields = {"cookie": cookie, "query_parameter": query_parameter}
    for scheme, pool in list(manager.pool_classes_by_scheme.items()):
        if any(fields.values()) and not issubclass(pool, _PlacingPool):
            placing = type(pool.__name__, (_PlacingPool, pool), fields)
            manager.pool_classes_by_scheme = manager.pool_classes_by_scheme | {scheme: placing}


class _PlacingPool(_Pool):
    """A mixin for pool classes. urllib3 logs the URL, so it is changed below that."""

    cookie: str | None = None
    query_parameter: str | None = None

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        # On the instance, as in the quiet pools, which keep the pool's connection class.
        connection.request = partial(self._send, connection.request)
        return connection

    def _send(
        self,
        send: Callable[..., Any],
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        **options: Any,
    ) -> Any:
        headers = dict(headers or {})
        token = headers.pop(CARRIER, None)
        if token is not None and self.query_parameter is not None:
            url += f"{'&' if '?' in url else '?'}{self.query_parameter}={quote(token, safe='')}"
        elif token is not None:
            others = [headers.pop(name) for name in list(headers) if name.lower() == "cookie"]
            headers["Cookie"] = "; ".join([*others, f"{self.cookie}={token}"])
        return send(method, url, body=body, headers=headers, **options)
