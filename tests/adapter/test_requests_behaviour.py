"""P13: for foreign origins a session behaves as it does without the adapter.

The behaviours are those that the public test suite of ``requests`` covers. Each is tried
with the adapter and with requests' own, mounted at ``http://`` and ``https://``. The
outcomes must be equal, down to the headers that the server received.
"""

from __future__ import annotations

import base64
import gzip
import io
import pickle

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from wire import manager_of

from requests_silent_refresh import SilentRefreshAdapter
from requests_silent_refresh.testing import AuthorizationServer

BEHAVIOURS = {}


def behaviour(function):
    """Register ``function(session, url)``, which returns what is to be compared."""
    BEHAVIOURS[function.__name__] = function
    return function


def shown(response):
    """Return all that an application sees of a response."""
    return (
        response.status_code,
        response.reason,
        response.url,
        response.content,
        response.encoding,
        sorted((k, v) for k, v in response.headers.items() if k != "Date"),
        response.cookies.get_dict(),
        [shown(earlier) for earlier in response.history],
        sorted(response.request.headers.items()),
        response.request.url,
        response.request.method,
        response.ok,
        response.is_redirect,
        type(response.raw).__name__,
    )


# -- methods, URLs, headers ---------------------------------------------------------------


@behaviour
def methods(session, url):
    return [
        shown(session.request(method, url + "/echo"))
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "CUSTOM")
    ]


@behaviour
def parameters_and_fragments(session, url):
    return [
        shown(session.get(url + "/echo?a=1#b", params={"c": ["2", "3"], "d": None})),
        shown(session.get(url + "/echo#fragment")),
        shown(session.get(url + "/ä ö%20ü")),
    ]


@behaviour
def headers_of_session_and_request(session, url):
    session.headers.update({"X-Session": "a", "Accept": "*/*;q=0.5"})
    return shown(
        session.get(
            url + "/echo", headers={"X-Own": "b", "Accept-Encoding": None, "user-agent": "c"}
        )
    )


@behaviour
def bytes_and_unicode_headers(session, url):
    return shown(session.get(url + "/echo", headers={"X-Bytes": b"a", "X-Text": "é"}))


@behaviour
def a_header_with_a_line_break(session, url):
    return shown(session.get(url + "/echo", headers={"X-Evil": "a\r\nX-More: b"}))


@behaviour
def an_explicit_host_header(session, url):
    return shown(session.get(url + "/echo", headers={"Host": "elsewhere.example"}))


@behaviour
def bad_urls(session, url):
    outcomes = []
    for bad in ("hiwpefhipowhefopw", "localhost:3128", "10.122.1.1:3128/", "http://", "http://*"):
        try:
            session.get(bad)
        except Exception as error:
            outcomes.append((type(error), str(error)))
    return outcomes


@behaviour
def a_scheme_without_an_adapter(session, url):
    return session.get("ftp://127.0.0.1/")


@behaviour
def a_connection_refused(session, url):
    return session.get("http://127.0.0.1:1/")


# -- bodies --------------------------------------------------------------------------------


@behaviour
def forms_and_files(session, url):
    post = [
        {"data": {"a": "b", "c": ["d", "e"]}},
        {"data": [("a", "1"), ("a", "2")]},
        {"data": "text", "headers": {"Content-Type": "x/y"}},
        {"data": b"bytes"},
        {"json": {"a": [1]}},
        {"json": {}},
        {"data": io.BytesIO(b"a stream")},
        {"data": iter([b"chunk", b"ed"])},
        {"data": io.BytesIO()},
    ]
    heard = []
    for options in post:
        answer = session.post(url + "/echo", **options)
        heard.append((answer.json()["body_sha256"], sorted(answer.json()["headers"].items())))
    return heard


@behaviour
def multipart(session, url):
    answer = session.post(url + "/echo", data={"a": "b"}, files={"f": ("name", b"content")})
    return answer.json()["body_length"], answer.request.headers["Content-Type"].partition(";")[0]


@behaviour
def an_invalid_body(session, url):
    with pytest.raises(TypeError) as caught:
        session.post(url + "/echo", data=object())
    return str(caught.value).partition("<")[0]


# -- redirects -----------------------------------------------------------------------------


@behaviour
def redirects_of_each_kind(session, url):
    return [
        shown(session.request(method, f"{url}/redirect/{status}", data=data))
        for status in (301, 302, 303, 307, 308)
        for method, data in (("GET", None), ("POST", b"body"), ("HEAD", None), ("PUT", b"x"))
    ]


@behaviour
def a_redirect_rewinds_a_stream(session, url):
    body = io.BytesIO(b"the body")
    body.read(4)
    return shown(session.post(url + "/redirect/307", data=body))


@behaviour
def a_redirect_cannot_rewind_a_generator(session, url):
    return shown(session.post(url + "/redirect/307", data=iter([b"once"])))


@behaviour
def too_many_redirects(session, url):
    session.max_redirects = 4
    try:
        session.get(url + "/loop")
    except requests.TooManyRedirects as error:
        # Older releases put a response into its own history.
        history = [earlier.status_code for earlier in error.response.history]
        return str(error), error.response.url, history, error.request.url


@behaviour
def redirects_by_hand(session, url):
    response = session.get(url + "/redirect/302", allow_redirects=False)
    rest = list(session.resolve_redirects(response, response.request))
    return shown(response), response.next.url, [shown(r) for r in rest]


@behaviour
def a_redirect_keeps_the_fragment(session, url):
    return session.get(url + "/redirect/302#fragment").url


@behaviour
def credentials_on_redirects(session, url):
    elsewhere = url.replace("127.0.0.1", "localhost")
    return [
        shown(session.get(f"{url}/redirect/302", auth=("user", "pw"))),
        shown(session.get(f"{elsewhere}/away", headers={"Authorization": "Mine"})),
        shown(session.get(f"{url}/redirect/302", headers={"Authorization": "Mine"})),
    ]


# -- cookies -------------------------------------------------------------------------------


@behaviour
def cookies(session, url):
    session.cookies["session"] = "a"
    first = session.get(url + "/cookie", cookies={"request": "b"})
    second = session.get(url + "/echo")
    third = session.get(url + "/cookie-redirect")
    return [shown(r) for r in (first, second, third)], session.cookies.get_dict()


@behaviour
def an_explicit_cookie_header(session, url):
    session.get(url + "/cookie")
    return shown(session.get(url + "/echo", headers={"Cookie": "a=b"}))


# -- authentication ------------------------------------------------------------------------


@behaviour
def basic(session, url):
    session.auth = ("user", "pass")
    return [
        shown(session.get(url + "/basic")),
        shown(session.get(url + "/basic", auth=HTTPBasicAuth("wrong", "pw"))),
        shown(session.get(url.replace("://", "://user:pass@") + "/basic")),
    ]


@behaviour
def digest(session, url):
    auth = HTTPDigestAuth("user", "pass")
    response = session.get(url + "/digest", auth=auth)
    again = session.get(url + "/digest", auth=auth)
    return (
        [r.status_code for r in (*response.history, response, *again.history, again)],
        response.cookies.get_dict(),
        session.cookies.get_dict(),
    )


@behaviour
def digest_with_a_stream(session, url):
    body = io.BytesIO(b"the body")
    response = session.post(url + "/digest", auth=HTTPDigestAuth("user", "pass"), data=body)
    return response.status_code, response.json()["body_length"]


@behaviour
def a_netrc(session, url):
    session.trust_env = True
    return [shown(session.get(url + "/basic")), shown(session.get(url + "/redirect/302"))]


@behaviour
def an_unauthorized_answer(session, url):
    return shown(session.get(url.removesuffix("/open") + "/resource"))


# -- responses -----------------------------------------------------------------------------


@behaviour
def status_errors(session, url):
    outcomes = []
    for status in (400, 401, 404, 500):
        response = session.get(f"{url}/status/{status}")
        with pytest.raises(requests.HTTPError) as caught:
            response.raise_for_status()
        outcomes.append((str(caught.value), shown(response), bool(response)))
    return outcomes


@behaviour
def encodings_of_the_body(session, url):
    response = session.get(url + "/gzip")
    raw = session.get(url + "/gzip", stream=True)
    return shown(response), response.text, gzip.decompress(raw.raw.read())


@behaviour
def streaming(session, url):
    lines = list(session.get(url + "/lines", stream=True).iter_lines())
    pieces = b"".join(session.get(url + "/lines", stream=True).iter_content(7))
    with session.get(url + "/lines", stream=True) as left:
        read = left.raw.tell()
    return lines, pieces, read, left.raw.closed


@behaviour
def an_answer_that_ends_early(session, url):
    return session.get(url + "/cut").content


@behaviour
def a_connection_closed_without_an_answer(session, url):
    return session.get(url + "/drop")


@behaviour
def links_and_json(session, url):
    response = session.get(url + "/links")
    with pytest.raises(requests.JSONDecodeError) as caught:
        session.get(url + "/lines").json()
    return response.links, type(caught.value)


@behaviour
def a_pickled_response(session, url):
    response = pickle.loads(pickle.dumps(session.get(url + "/redirect/302")))
    return response.content, response.url, [r.status_code for r in response.history]


@behaviour
def elapsed(session, url):
    return session.get(url + "/echo").elapsed.total_seconds() > 0


# -- hooks, prepared requests, timeouts, TLS --------------------------------------------------


@behaviour
def hooks(session, url):
    calls = []
    session.hooks["response"].append(lambda r, **how: calls.append(("session", sorted(how))))
    own = [lambda r, **how: calls.append("one"), lambda r, **how: calls.append("two")]
    session.get(url + "/redirect/302", hooks={"response": own})
    return calls


@behaviour
def a_hook_that_replaces_the_response(session, url):
    return shown(
        session.get(
            url + "/echo",
            hooks={"response": lambda r, **how: r.connection.send(r.request, **how)},
        )
    )


@behaviour
def a_prepared_request_is_sent_twice(session, url):
    prepared = session.prepare_request(requests.Request("POST", url + "/echo", data={"a": "b"}))
    before = dict(prepared.headers)
    outcome = [shown(session.send(prepared)), shown(session.send(prepared))]
    assert dict(prepared.headers) == before
    return outcome


@behaviour
def timeouts(session, url):
    outcomes = []
    for timeout in (0.05, (5, 0.05), (None, 0.05), (1, 2, 3), "nonsense"):
        try:
            session.get(url + "/slow", timeout=timeout)
        except Exception as error:
            outcomes.append((type(error), getattr(error, "request", None) is not None))
    return outcomes


@behaviour
def missing_certificates(session, url):
    outcomes = []
    for options in ({"verify": "/no/such.pem"}, {"cert": "/no/such.pem"}, {"cert": ("a", "b")}):
        try:
            session.get("https://127.0.0.1:1/", **options)
        except Exception as error:
            outcomes.append((type(error), str(error)))
    return outcomes


@behaviour
def unreachable_proxies(session, url):
    outcomes = []
    for proxy in ("http://127.0.0.1:1", "http:", "nonsense://x", "http://:8080"):
        try:
            session.get("http://elsewhere.example/", proxies={"http": proxy})
        except Exception as error:
            outcomes.append(type(error))
    return outcomes


@behaviour
def closing(session, url):
    session.get(url + "/echo")
    session.close()
    session.close()
    return session.get(url + "/echo").status_code


# -- the server and the comparison -------------------------------------------------------------


def digest_answer(request, answer):
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    if "Digest" not in (request.headers.get("Authorization") or ""):
        headers = [("WWW-Authenticate", challenge), ("Set-Cookie", "digest=a")]
        return answer.but(status=401, headers=headers, body=b"")
    return answer


def basic_answer(request, answer):
    expected = "Basic " + base64.b64encode(b"user:pass").decode()
    if request.headers.get("Authorization") != expected:
        return answer.but(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'}, body=b"no")
    return answer


@pytest.fixture(scope="module")
def served():
    """A server outside the origins, with a response for each path."""
    with AuthorizationServer() as server:

        def at(path, headers=(), **changes):
            changes.setdefault("status", 200)
            server.on(
                "/open" + path, lambda request, answer: answer.but(headers=headers, **changes)
            )

        text = "\n".join(f"line {n}" for n in range(200)).encode()
        for status in (301, 302, 303, 307, 308):
            at(
                f"/redirect/{status}",
                status=status,
                headers={"Location": "/open/echo"},
                body=b"moved",
            )
        at("/loop", status=302, headers={"Location": "/open/loop"}, body=b"")
        at("/away", status=302, headers={"Location": server.url + "/open/echo"}, body=b"")
        at("/cookie", headers={"Set-Cookie": "server=c; Path=/"}, body=b"")
        at(
            "/cookie-redirect",
            status=302,
            headers={"Location": "/open/echo", "Set-Cookie": "hop=d; Path=/"},
            body=b"",
        )
        for status in (400, 401, 404, 500):
            at(f"/status/{status}", status=status, body=b"so it is")
        at("/gzip", headers={"Content-Encoding": "gzip"}, body=gzip.compress(text))
        at("/lines", headers={"Content-Type": "text/plain; charset=utf-8"}, body=text)
        at("/cut", headers={"Content-Length": "99"}, body=b"begun", close=True)
        at("/links", headers={"Link": '</a>; rel="next"'}, body=b"")
        at("/drop", drop=True)
        at("/slow", delay=0.3)
        server.on("/open/digest", digest_answer)
        server.on("/open/basic", basic_answer)
        yield server


@pytest.fixture(scope="module")
def manager():
    with AuthorizationServer() as server:
        yield manager_of(server)


def outcome(function, session, url):
    """Return the function's value, or the types of the exception it raised and its context."""
    try:
        return function(session, url)
    except requests.RequestException as error:
        return type(error), type(error.__context__)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_it_is_the_same_as_without_the_adapter(name, served, manager, tmp_path, monkeypatch):
    """P13: the outcome is equal in all that a caller sees."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password pass\n")
    monkeypatch.setenv("NETRC", str(netrc))
    outcomes = []
    for adapter in (
        HTTPAdapter(),
        SilentRefreshAdapter(manager, "https://api.example.com"),
        SilentRefreshAdapter(manager, "https://api.example.com", transport=HTTPAdapter()),
    ):
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            outcomes.append(outcome(BEHAVIOURS[name], session, served.url + "/open"))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert served.log.of("error") == []


def test_tls_of_a_foreign_origin_is_the_same(manager, mutual):
    """P13: ``verify`` and ``cert`` apply to the connection as before."""
    server, bundle, cert = mutual
    with requests.Session() as session:
        session.mount("https://", SilentRefreshAdapter(manager, "https://api.example.com"))
        assert session.get(server.url + "/open", verify=bundle, cert=cert).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url + "/open", cert=cert)
        with pytest.raises(requests.ConnectionError):
            session.get(server.url + "/open", verify=bundle)
