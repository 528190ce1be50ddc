"""Send N requests of one arm through a stubbed transport, while valgrind counts instructions.

:mod:`benchmarks.overhead` runs it as ``python -m benchmarks.overhead_probe ARM N TRUST_ENV``.
``ARM`` is an index into ``arms.ARMS``.
"""

from __future__ import annotations

import sys
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from . import arms

URL = "https://api.example.com"


def answer_at_once(
    self: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **kwargs: Any
) -> requests.Response:
    """Replace ``HTTPAdapter.send`` in every arm, and return a minimal 200 at once."""
    response = requests.Response()
    response.status_code = 200
    response.url = request.url or ""
    response.request = request
    # requests has no public way to give a response its body without reading it from a stream.
    response._content = b"{}"
    response._content_consumed = True  # type: ignore[attr-defined]
    return response


def main() -> None:
    """Send the requests."""
    place, count, trust_env = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    HTTPAdapter.send = answer_at_once  # type: ignore[method-assign]
    arms.trust_env = trust_env
    answer = arms.long_lived("a" * 40, "r" * 40)
    get = arms.ARMS[place].make(arms.Address(URL), answer)  # type: ignore[arg-type]
    for _ in range(count):
        get(URL + "/resource")


if __name__ == "__main__":
    main()
