"""What it takes to send a request again: its body, its headers, its cookies."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from requests import PreparedRequest, Response
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.structures import CaseInsensitiveDict
from requests.utils import rewind_body

_IN_MEMORY = (bytes, str, bytearray, memoryview)


def is_rewindable(request: PreparedRequest) -> bool:
    """Say whether the request's body looks as if it could be sent a second time.

    ``requests`` notes where a file stood when it prepared the request; a
    generator, a pipe or an encoder that was consumed has no such place.
    """
    body = request.body
    if body is None or isinstance(body, _IN_MEMORY):
        return True
    # `_body_position` has no public name, but requests' own redirects go by it.
    return isinstance(request._body_position, int) and hasattr(body, "seek")


def rewind(request: PreparedRequest) -> bool:
    """Put a body that :func:`is_rewindable` back to where it stood; ``False`` where it refuses."""
    if request.body is None or isinstance(request.body, _IN_MEMORY):
        return True
    try:
        rewind_body(request)
    except (OSError, ValueError):  # UnrewindableBodyError is an OSError; a closed file's is not
        return False
    return True


def shallow_copy(request: PreparedRequest) -> PreparedRequest:
    """Copy the request but for what it refers to; its headers become a dictionary of their own.

    ``PreparedRequest.copy`` copies the cookie jar too, cookie by cookie. Of a
    plain dictionary it makes headers in which ours replace any spelling.
    """
    twin = type(request).__new__(type(request))
    twin.__dict__.update(request.__dict__)
    twin.headers = CaseInsensitiveDict(request.headers)
    return twin


def with_header(request: PreparedRequest, name: str, value: str) -> PreparedRequest:
    """Return a shallow copy that has this header, in place of any spelling of it.

    Every request pays for this, so it is one function at the price of two
    dictionaries' copies: ``CaseInsensitiveDict`` takes each header apart. Where
    its inside is not what we know, it is what we use.
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
    """Put the caller's request in place of the one with the token, along the chain of ``error``."""
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
    """Return the request to send again: with the cookies that the 401 set, if it set any.

    A ``Cookie`` header that the caller wrote survives; one that was made from
    the session's jar is made anew.
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
