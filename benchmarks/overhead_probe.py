"""One arm sending N requests through a stubbed transport; counted from outside by valgrind.

Run by :mod:`benchmarks.instructions` as ``python -m benchmarks.overhead_probe ARM N TRUST_ENV``.
"""

from __future__ import annotations

import sys

import requests
from requests.adapters import BaseAdapter

URL = "https://api.example.com/resource"


class Stub(BaseAdapter):
    """A transport that answers at once, as little as a session accepts."""

    def send(self, request, **how):
        """Return a bare 200."""
        response = requests.Response()
        response.status_code = 200
        response.url = request.url
        response.request = request
        response._content = b"{}"
        response._content_consumed = True
        return response

    def close(self):
        """Nothing is open."""


def plain(session):
    """The floor: a header set once, no library."""
    session.headers["Authorization"] = "Bearer " + "a" * 40
    session.mount("https://", Stub())


def ours(session):
    """This library, with a token that stays fresh."""
    import time

    from requests_silent_refresh import SilentRefreshAdapter, Token, TokenManager

    manager = TokenManager(lambda token: token)
    now = time.time()
    manager.sign_in(Token("a" * 40, "r" * 40, expires_at=now + 86400, issued_at=now))
    session.mount(
        "https://", SilentRefreshAdapter(manager, "https://api.example.com", transport=Stub())
    )


def authorization(session):
    """A callable ``auth=``, the least that any auth class costs."""

    def auth(request):
        request.headers["Authorization"] = "Bearer " + "a" * 40
        return request

    session.auth = auth
    session.mount("https://", Stub())


def main() -> None:
    """Send the requests."""
    arm, count, trust_env = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    with requests.Session() as session:
        session.trust_env = trust_env
        globals()[arm](session)
        for _ in range(count):
            session.get(URL)


if __name__ == "__main__":
    main()
