"""Checks of the adapter's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from requests import Response, Session
from urllib3.util import Retry

from .. import arguments
from .rejected_by import RejectedBy


def is_rejected_of(given: Any) -> Callable[[Response], bool] | None:
    """Return the function that says what is rejected; settings give it as a mapping."""
    if isinstance(given, Mapping):
        settings = arguments.mapping("is_rejected", given)
        for name in settings:
            arguments.one_of(("statuses", "codes"), **{"each setting of is_rejected": name})
        return RejectedBy(**settings)
    arguments.functions(**arguments.given(is_rejected=given))
    return given  # type: ignore[no-any-return]


def check(manager: Any, transport: Any, options: dict[str, Any]) -> None:
    arguments.able(("usable_token", "renew"), "a TokenManager", manager=manager)
    expected = "a transport adapter, such as HTTPAdapter()"
    arguments.able(("send", "close"), expected, **arguments.given(transport=transport))
    if isinstance(transport, Session):
        raise arguments.wrong_kind("transport", transport, expected)
    for name in options.keys() & {"pool_connections", "pool_maxsize"}:
        arguments.instances(int, "an int", **{name: options[name]})
    retries = options.get("max_retries")
    arguments.instances((int, Retry), "an int or a Retry", **arguments.given(max_retries=retries))
