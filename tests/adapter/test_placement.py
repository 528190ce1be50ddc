"""Where the token travels, if not in a header, and responses that reject it without a 401."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from requests_silent_refresh import RejectedBy, SilentRefreshAdapter, Token, TokenManager

OLD, NEW = "canary/old+1", "canary/new+2"


class API:
    """Takes the token from a cookie or the query; answers others as it is told."""

    def __init__(self) -> None:
        self.rejection: tuple[int, Any] = (401, {})
        self.seen: list[tuple[dict[str, list[str]], str, set[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                cookie = self.headers.get("Cookie", "")
                outer.seen.append((query, cookie, set(map(str.lower, self.headers.keys()))))
                carried = query.get("access_token", [""])[0] + cookie
                carried += self.headers.get("Authorization", "")
                status, body = (200, {"ok": True}) if NEW in carried else outer.rejection
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[API]:
    running = API()
    yield running
    running.close()


def session_for(api: API, **options: Any) -> requests.Session:
    manager = TokenManager(lambda token: Token(NEW, "r2"))
    manager.sign_in(Token(OLD, "r1"))
    session = requests.Session()
    SilentRefreshAdapter(manager, api.url, **options).mount_on(session)
    return session


@pytest.mark.parametrize("url", ["/me", "/me?a=b"])
def test_the_token_in_the_query_is_sent_and_never_shown(
    api: API, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P12: no log record, response, request or error shows the query parameter."""
    caplog.set_level(logging.DEBUG)
    with session_for(api, query_parameter="access_token") as session:
        answer = session.get(api.url + url)
        assert answer.json() == {"ok": True}
        assert [query["access_token"] for query, _, _ in api.seen] == [[OLD], [NEW]]
        assert not any("x-silent-refresh-token" in names for _, _, names in api.seen)
        shown = [answer.url, answer.request.url, str(answer.request.headers), caplog.text]
        api.close()
        session.get_adapter(api.url).poolmanager.clear()  # type: ignore[attr-defined]
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(api.url + url)
        shown += [str(caught.value), str(caught.value.request.headers), caplog.text]
    assert "canary" not in "".join(map(str, shown))


def test_the_token_in_a_cookie_stands_beside_the_others(api: API) -> None:
    """P13: the cookies of the session and the request are sent as well."""
    with session_for(api, cookie="access") as session:
        session.cookies.set("theme", "dark")
        assert session.get(api.url + "/me").status_code == 200
        assert api.seen[-1][1] == f"theme=dark; access={NEW}"
        assert dict(session.cookies) == {"theme": "dark"}


def test_the_place_survives_a_pickle() -> None:
    """P13: an adapter that was pickled puts the token in the same place."""
    again = pickle.loads(pickle.dumps(_pickled_adapter()))
    assert again._place == (None, "access_token")


def _pickled_adapter() -> SilentRefreshAdapter:
    from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant

    grant = RefreshTokenGrant("https://auth.example.com/token", "c")
    manager = TokenManager(grant, EncryptedFileStore("/nonexistent/tokens"))
    return SilentRefreshAdapter(manager, "https://api.example.com", query_parameter="access_token")


@pytest.mark.parametrize(
    "options",
    [
        {"cookie": "a", "query_parameter": "b"},
        {"cookie": "a b"},
        {"query_parameter": "a", "transport": HTTPAdapter()},
        {"is_rejected": {"statuses": ["403"]}},
        {"is_rejected": {"codes": "token_expired"}},
    ],
)
def test_a_place_that_cannot_be_is_refused(api: API, options: Any) -> None:
    """The arguments are checked at construction."""
    with pytest.raises((ValueError, TypeError)):
        session_for(api, **options)


@pytest.mark.parametrize(
    ("rejection", "how"),
    [
        ((403, {}), RejectedBy(statuses=[401, 403])),
        ((403, {}), {"statuses": [403]}),
        ((200, {"ok": False, "error": "token_expired"}), RejectedBy(codes=["token_expired"])),
        (
            (200, {"errors": [{"message": "no", "extensions": {"code": "UNAUTHENTICATED"}}]}),
            {"codes": ["UNAUTHENTICATED"]},
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_rejections_without_a_401(api: API, rejection: Any, how: Any, stream: bool) -> None:
    """P2: one refresh, and the request is sent again."""
    api.rejection = rejection
    with session_for(api, is_rejected=how) as session:
        assert session.get(api.url + "/me", stream=stream).json() == {"ok": True}
        assert len(api.seen) == 2


@pytest.mark.parametrize("rejection", [(403, {}), (200, {"error": "other", "data": [1, 2]})])
def test_other_answers_are_left_unread(api: API, rejection: Any) -> None:
    """P13: an answer that rejects nothing streams as it does without this package."""
    api.rejection = rejection
    how = RejectedBy(codes=["token_expired"])
    with session_for(api, is_rejected=how) as session, session.get(api.url, stream=True) as answer:
        assert answer.status_code == rejection[0]
        assert answer._content is False
        assert json.loads(b"".join(answer.iter_content(2))) == rejection[1]
        assert len(api.seen) == 1
