"""``silent-refresh doctor``: find what may keep a profile from working, before it does."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import click

from .. import profiles
from ..errors import SilentRefreshError
from ..grants.answer import EndpointAnswer, NoAnswer
from ..grants.token_endpoint import TokenEndpoint
from ..profiles import paths
from ..profiles.profile import Profile, network_options
from ..profiles.references import resolve
from ..system import private_files
from ..system.directories import weakness
from ..system.kernel_lock import KernelLock
from . import exits
from .options import names_argument
from .output import say
from .times import until

_TIMEOUT = 5.0  # seconds for all endpoints, which are asked at the same time
_SKEW = 30.0  # seconds; lifetimes count from receipt, so skew only affects tools that read dates


class Finding(NamedTuple):
    """The result of one check. ``level`` is ``ok``, ``warning`` or ``problem``."""

    level: str
    text: str


@click.command()
@names_argument
def doctor(names: tuple[str, ...]) -> int:
    """Check the profiles NAME (all of them if none is named) for problems.

    Checks file modes, key, stored state, lock holder, endpoints and clock. Sends
    no token and no secret, and changes nothing. Exits with 1 if there is a problem.
    """
    healthy = True
    with private_files.looking_only():
        for name in names or profiles.listed():
            say(f"{name}:")
            for finding in examine(name):
                healthy = healthy and finding.level != "problem"
                say(f"  {finding.level:<8} {' '.join(finding.text.split())}")
    return exits.DONE if healthy else exits.FAILED


def examine(name: str) -> Iterator[Finding]:
    """Yield the findings as they are made. Problems are yielded, never raised."""
    try:
        profile = profiles.load(name)
    except (SilentRefreshError, ValueError) as error:
        yield Finding("problem", str(error))
        return
    yield from _modes(paths.settings_file(name), "settings")
    for check in (_grant, _key, _state, _lock):
        try:
            yield from check(profile)
        except (SilentRefreshError, OSError, ValueError) as error:
            yield Finding("problem", str(error))
    yield from _network(profile)


def _modes(path: str, what: str, *, key_of: str | None = None) -> Iterator[Finding]:
    """Check whether other users can read or replace a file.

    ``key_of`` is the profile whose key it is: a key that others could read may be known.
    """
    try:
        found, danger = os.lstat(path), weakness(os.path.dirname(path))
    except FileNotFoundError:
        yield Finding("ok", f"{what}: {path} does not exist yet")
        return
    mode = stat.S_IMODE(found.st_mode)
    if os.name == "posix" and mode & 0o077:
        advice = "" if key_of is None else f", then silent-refresh rotate-key {key_of}"
        yield Finding(
            "warning" if key_of is None else "problem",
            f"{what}: {path} can be opened by others (mode {mode:o}): chmod go= {path}{advice}",
        )
    elif danger is not None:
        yield Finding("problem", f"{what}: other users can replace {path}: {danger}")
    else:
        yield Finding("ok", f"{what}: {path}, mode {mode:o}")


def _grant(profile: Profile) -> Iterator[Finding]:
    profile.make_grant()
    reference = profile.grant.get("client_secret")
    if reference is not None:
        try:
            resolve(reference, profile.name, profile.make_key())()
        except (LookupError, OSError, ValueError, ImportError) as error:
            yield Finding("problem", f"client secret: {error}")
        else:
            yield Finding("ok", f"client secret: found in {reference}")


def _key(profile: Profile) -> Iterator[Finding]:
    keys = profile.key if isinstance(profile.key, list) else [profile.key]
    for key in keys:
        inner = key.get("passphrase", key) if isinstance(key, dict) else key
        if key is None and profile.store.get("kind", "file") == "file":
            path: str | None = paths.key_file(profile.name)
        else:
            path = (inner.get("key_file") or inner.get("file")) if inner else None
        if path is None:
            yield Finding("ok", f"key: {key}")
        elif "file" in (inner or {}) and not _is_writable_by_others(path):
            # A platform that mounts secrets gives them modes of its own.
            yield Finding("ok", f"key: {path}")
        else:
            yield from _modes(path, "key file", key_of=profile.name)


def _is_writable_by_others(path: str) -> bool:
    return os.name == "posix" and bool(os.stat(path).st_mode & 0o022)


def _state(profile: Profile) -> Iterator[Finding]:
    store = profile.open_store()
    path = getattr(store, "path", None)
    if isinstance(path, str):
        yield from _modes(path, "tokens")
    state = store.load()
    if state is None or state.token is None:
        yield Finding("warning", f"nobody is signed in: run {profile.sign_in_command}")
        return
    token = state.token
    expires = "" if token.expires_at is None else f", the token expires {until(token.expires_at)}"
    yield Finding("ok", f"signed in, generation {state.generation}{expires}")
    if token.refresh_token is None and getattr(profile.make_grant(), "needs_sign_in", True):
        yield Finding(
            "warning", "there is no refresh token: the session ends when this token expires"
        )


def _lock(profile: Profile) -> Iterator[Finding]:
    """Try the lock that an exchange holds, and release it at once."""
    path = getattr(profile.open_store(), "path", None)
    if not isinstance(path, str):
        return
    if not os.path.exists(path + ".lock"):
        yield Finding("ok", "the lock has never been used")
        return
    lock = KernelLock(path + ".lock")
    try:
        if lock.try_acquire():
            yield Finding("ok", "the lock is free")
        else:
            holder = lock.holder() or "an unknown process"
            yield Finding("warning", f"the lock is held by {holder}: a refresh is under way")
    finally:
        lock.release()


def _network(profile: Profile) -> Iterator[Finding]:
    """Send a request to each endpoint, to see whether it answers and what its clock says."""
    urls = {
        **_urls(profile.grant, ("url", "token_endpoint", "revocation_endpoint")),
        **_urls(
            profile.sign_in, ("issuer", "authorization_endpoint", "device_authorization_endpoint")
        ),
    }
    deadline = time.monotonic() + _TIMEOUT
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        answers = []
        for name, url in urls.items():
            try:
                endpoint = TokenEndpoint(url, name=name, **network_options(profile.grant))
            except (SilentRefreshError, ValueError) as error:
                yield Finding("problem", str(error))
                continue
            answers.append((f"{name} {endpoint}", pool.submit(endpoint.get, deadline)))
        for name, future in answers:
            try:
                yield from _assess(name, future.result())
            except SilentRefreshError as error:
                yield Finding("problem", str(error))


def _urls(settings: Any, names: tuple[str, ...]) -> dict[str, str]:
    return {name: settings[name] for name in names if isinstance(settings.get(name), str)}


def _assess(name: str, answer: EndpointAnswer | NoAnswer) -> Iterator[Finding]:
    if isinstance(answer, NoAnswer):
        yield Finding("problem", f"{name}: no answer ({answer.detail or answer.kind})")
        return
    if answer.status >= 500:
        yield Finding("warning", f"{name}: answers {answer.status}")
    else:
        yield Finding("ok", f"{name}: answers")
    skew = answer.received_at - answer.server_time
    if abs(skew) > _SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        yield Finding(
            "warning",
            f"this machine's clock is {abs(skew):.0f} s {ahead} the server's: synchronize it (NTP)",
        )
