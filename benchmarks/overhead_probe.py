"""One arm sending N requests through a stubbed transport; counted from outside by valgrind.

Run by :mod:`benchmarks.overhead` as ``python -m benchmarks.overhead_probe ARM N TRUST_ENV``,
``ARM`` by its place in ``arms.ARMS``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from . import arms

URL = "https://api.example.com"


def answer_at_once(
    self: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **kwargs: Any
) -> requests.Response:
    """Take the place of ``HTTPAdapter.send`` in every arm: a bare 200, as little as will do."""
    response = requests.Response()
    response.status_code = 200
    response.url = request.url or ""
    response.request = request
    response._content = b"{}"
    response._content_consumed = True  # type: ignore[attr-defined]
    return response


def main() -> None:
    """Send the requests."""
    place, count, trust_env = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    HTTPAdapter.send = answer_at_once  # type: ignore[method-assign]
    arms.trust_env = trust_env
    answer = {
        "access_token": "a" * 40,
        "refresh_token": "r" * 40,
        "token_type": "Bearer",
        "expires_at": time.time() + 86400,
    }
    get = arms.ARMS[place].make(arms.Address(URL), answer)  # type: ignore[arg-type]
    for _ in range(count):
        get(URL + "/resource")


if __name__ == "__main__":
    main()
