"""The objects in an answer, and where the tokens are in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .redaction import MaskedDict, Secret
from .times import number

# Names are compared in lower case, without hyphens, underscores and dots.
ACCESS = ("accesstoken",)
REFRESH = ("refreshtoken",)
# Names that are also used for other things. They count next to a refresh token, and in the
# usual places of a token.
_VAGUE_ACCESS = ("access", "token", "jwt", "authtoken", "bearertoken", "jwttoken", "idtoken")
_VAGUE_REFRESH = ("refresh",)
_USUAL_PLACES = frozenset(
    {"data", "result", "tokens", "token", "body", "response", "session", "auth", "credentials"}
)
_INNER = ("token", "value", "jwt", "secret")

_DEPTH = 3
_MOST_OBJECTS = 300

# Wider than b64token of RFC 6750 section 2.1, because servers do not keep to it: anything
# that is safe in a header is accepted.
TOKEN = re.compile(r"[\x21-\x7e]+")
_SCHEME = re.compile(r"(?:bearer|token|jwt|oauth)[ \t]+(?=\S)", re.IGNORECASE)


class Place:
    """An object in an answer: its fields, and the place that it is nested in under ``key``."""

    def __init__(
        self, fields: Mapping[Any, Any], key: str = "", outer: Place | None = None
    ) -> None:
        self.fields = MaskedDict((str(name), value) for name, value in fields.items())
        self.key = key
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self._inner: dict[str, list[Place]] = {}
        self._spellings: dict[str, list[str]] = {}
        for name in self.fields:
            self._spellings.setdefault(normal(name), []).append(name)

    @property
    def is_usual(self) -> bool:
        """Whether a token in it may have a vague name."""
        return self.outer is None or (normal(self.key) in _USUAL_PLACES and self.outer.is_usual)

    @property
    def outwards(self) -> Iterator[Place]:
        """Yield the place and those that it is nested in."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.outer

    def inside(self, key: str) -> list[Place]:
        """Return the places under ``key``: an object, or those in a list or in JSON's text."""
        if key not in self._inner:
            self._inner[key] = [Place(f, key, self) for f in _objects(self.fields.get(key))]
        return self._inner[key]

    def keys(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the keys that are spelled like one of ``names``, in the order of these.

        Of two spellings, a number comes first: it leaves no doubt about its time zone.
        """
        for name in names:
            spelled = self._spellings.get(name, ())
            yield from sorted(spelled, key=lambda key: number(self.fields[key]) is None)


Found = tuple[Place, str, Any]


def normal(name: str) -> str:
    """Return a field's name in the form in which spellings are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def usable(value: object) -> bool:
    """Return whether a value can be a token's text. Servers also send numbers."""
    if isinstance(value, Secret):
        value = value.reveal()
    if isinstance(value, str):
        return TOKEN.fullmatch(clean(value)) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def clean(value: str) -> str:
    """Return a token without the space and the scheme that some servers write around it."""
    return _SCHEME.sub("", value.strip(), count=1)


def places_in(payload: Mapping[str, Any]) -> Iterator[Place]:
    """Yield the object itself and those nested in it, the outer ones first."""
    queue = [Place(payload)]
    for place in queue:
        yield place
        if place.depth < _DEPTH and len(queue) < _MOST_OBJECTS:
            for key in place.fields:
                queue += place.inside(key)


def _objects(value: Any) -> list[Mapping[Any, Any]]:
    if isinstance(value, str) and value.lstrip().startswith("{"):  # JSON inside JSON
        try:
            value = json.loads(value, strict=False)
        except (ValueError, RecursionError):
            return []
    members = value if isinstance(value, (list, tuple)) else [value]
    return [member for member in members[:_MOST_OBJECTS] if isinstance(member, Mapping)]


def access_in(places: list[Place]) -> Found | None:
    """Return where the access token is, or what stands in its place.

    Next to an error, a "token" may also be what the server quotes of the request.
    """
    next_to_refresh = [place for place in places if any(True for _ in _tokens(place, REFRESH))]
    is_error = any(places[0].fields.get(name) for name in ("error", "errors"))
    usual = [] if is_error else [place for place in places if place.is_usual]
    for searched, names in (
        (places, ACCESS),
        (next_to_refresh, _VAGUE_ACCESS),
        (usual, _VAGUE_ACCESS[:-1]),
    ):
        for place in searched:
            for found in _tokens(place, names):
                return found
    top = places[0]
    return next(((top, key, top.fields[key]) for key in top.keys(ACCESS)), None)


def is_one_of_several(access: Found, places: list[Place]) -> bool:
    """Return whether another object, at the same depth, has an access token of its own."""
    place, key, token = access
    return any(
        other.depth == place.depth and found[2] != token
        for other in places
        if other is not place
        for found in _tokens(other, (normal(key),))
    )


def refresh_near(around: Place, places: list[Place]) -> Found | None:
    """Return where the refresh token is: next to the access token, further out, or anywhere."""
    near = list(around.outwards)
    for searched, names in ((near, (*REFRESH, *_VAGUE_REFRESH)), (places, REFRESH)):
        for place in searched:
            for found in _tokens(place, names):
                return found
    for place in near:
        for key in place.keys(REFRESH):
            if place.fields[key] not in (None, ""):
                return place, key, place.fields[key]
    return None


def _tokens(place: Place, names: Iterable[str]) -> Iterator[Found]:
    """Yield the usable tokens in ``place`` under one of ``names``."""
    for key in place.keys(names):
        value = place.fields[key]
        if usable(value):
            yield place, key, value
        elif isinstance(value, Mapping):  # {"access": {"token": "...", "expires": "..."}}
            (inner,) = place.inside(key)
            for name in inner.keys(_INNER):
                if usable(inner.fields[name]):
                    yield inner, name, inner.fields[name]


def at_path(
    top: Place, attached: Mapping[str, Mapping[str, str]], path: str | None
) -> Found | None:
    """Return what is at a path that the user gave; ``None`` if there is nothing."""
    if path is None:
        return None
    kind, colon, name = path.partition(":")
    if colon:
        value: Any = attached.get(kind, {}).get(name)
        return (top, "", value) if value else None
    *parents, name = path.split(".")
    place = top
    for parent in parents:
        # A number after the name of a list, whose first member the last step has entered.
        outer = place.outer if parent.isdecimal() else None
        inner = place.inside(parent) if outer is None else outer.inside(place.key)[int(parent) :]
        if not inner:
            return None
        place = inner[0]
    value = place.fields.get(name)
    return None if value in (None, "") or isinstance(value, Mapping) else (place, name, value)
