"""Copies and rewinds a request to send it again: its body, its headers and its cookies."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any

from requests import PreparedRequest, Response
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.structures import CaseInsensitiveDict
from requests.utils import rewind_body

_IN_MEMORY = (bytes, str, bytearray, memoryview)


def is_rewindable(request: PreparedRequest) -> bool:
    """Return whether the body can probably be sent a second time; call it before the first.

    ``requests`` records where a body starts when it prepares the request, but only if the body
    is iterable, which an ``mmap`` is not. Otherwise its position is recorded here. A generator,
    a pipe and a multipart encoder have none.
    """
    body = request.body
    if body is None or isinstance(body, _IN_MEMORY):
        return True
    # `_body_position` has no public name, but requests' own redirects rely on it.
    if request._body_position is None and hasattr(body, "tell"):
        with contextlib.suppress(OSError, ValueError):  # a pipe, a closed file
            request._body_position = body.tell()
    return isinstance(request._body_position, int) and hasattr(body, "seek")


def rewind(request: PreparedRequest) -> bool:
    """Rewind a body that :func:`is_rewindable` to where it started; return False if that fails."""
    if request.body is None or isinstance(request.body, _IN_MEMORY):
        return True
    try:
        rewind_body(request)
    except (OSError, ValueError):  # UnrewindableBodyError is an OSError; a closed file's is not
        return False
    return True


def shallow_copy(request: PreparedRequest) -> PreparedRequest:
    """Return a shallow copy of the request, with its own headers, which ignore case.

    Cheaper than ``PreparedRequest.copy``, which copies the cookie jar, cookie by cookie.
    """
    twin = type(request).__new__(type(request))
    twin.__dict__.update(request.__dict__)
    twin.headers = CaseInsensitiveDict(request.headers)
    return twin


def with_header(request: PreparedRequest, name: str, value: str) -> PreparedRequest:
    """Return a shallow copy with this header, which replaces any other spelling of it.

    Runs for every request, so it copies ``CaseInsensitiveDict``'s private dictionary: the
    class itself would copy header by header. If that dictionary is not as expected, the
    headers are copied through the public interface.
    """
    headers = request.headers
    store = getattr(headers, "_store", None)
    if type(headers) is not CaseInsensitiveDict or type(store) is not OrderedDict:
        twin = shallow_copy(request)
        twin.headers[name] = value
        return twin
    copied: CaseInsensitiveDict[Any] = CaseInsensitiveDict.__new__(CaseInsensitiveDict)
    copied._store = store = store.copy()
    store[name.lower()] = (name, value)
    twin = type(request).__new__(type(request))
    twin.__dict__.update(request.__dict__)
    twin.headers = copied
    return twin


def show_callers(error: BaseException, outgoing: PreparedRequest, callers: PreparedRequest) -> None:
    """Replace ``outgoing``, which has the token, by ``callers`` along the chain of ``error``."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        holders: tuple[Any, ...] = (link, getattr(link, "response", None))
        for holder in holders:
            if getattr(holder, "request", None) is outgoing:
                holder.request = callers
        link = link.__cause__ or link.__context__


def with_cookies_of(request: PreparedRequest, rejected: Response) -> PreparedRequest:
    """Return the request to send again, with any cookies that the 401 set.

    A ``Cookie`` header that the caller wrote is kept. One that was built from the
    session's jar is built again.
    """
    jar = request._cookies
    if jar is None or "Set-Cookie" not in rejected.headers:
        return request
    again = shallow_copy(request)
    written = again.headers.pop("Cookie", None)
    if written is not None and written != get_cookie_header(jar, again):
        return request
    again._cookies = RequestsCookieJar()
    again._cookies.update(jar)
    extract_cookies_to_jar(again._cookies, request, rejected.raw)
    cookies = get_cookie_header(again._cookies, again)
    if cookies is not None:
        again.headers["Cookie"] = cookies
    return again
