"""``silent-refresh status``: the profiles and their sessions, never a token."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
import time
from typing import Any

import click

from .. import profiles
from ..errors import SilentRefreshError, printable
from ..profiles import changes, paths
from . import exits
from .options import names_argument
from .output import is_terminal, say
from .times import since, until


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of one profile. Times are Unix times in seconds."""

    name: str
    signed_in: bool | None
    """``None`` if it is unknown: see ``error``."""
    subject: str | None = None
    scope: list[str] = dataclasses.field(default_factory=list)
    expires_at: float | None = None
    generation: int | None = None
    refreshed_at: float | None = None
    origins: list[str] = dataclasses.field(default_factory=list)
    store: str | None = None
    error: str | None = None


@click.command()
@names_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(names: tuple[str, ...], as_json: bool) -> int:
    """Show the profiles and their sessions.

    Takes no lock, contacts no server except the store's, and prints no token.
    With NAMEs, the exit code is 3 if one of them is not signed in.
    """
    found = [status_of(name) for name in names or profiles.listed()]
    if as_json:
        say(*json.dumps([_as_json(one) for one in found], indent=2).splitlines())
    elif found:
        _print(found)
    else:
        say("There are no profiles. To create one, see silent-refresh sign-in --help")
    if any(one.error for one in found):
        return exits.FAILED
    return exits.SIGNED_OUT if names and not all(one.signed_in for one in found) else exits.DONE


def status_of(name: str) -> Status:
    """Return the status of one profile. Problems are reported in ``error``, never raised."""
    known = Status(name, None)
    try:
        profile = profiles.load(name)
        known = Status(profile.name, None, origins=list(profile.origins), store=profile.place)
        state = profile.open_store().load()
    except (SilentRefreshError, ValueError, OSError) as error:
        return dataclasses.replace(known, error=str(error))
    if state is None or state.token is None:
        generation = None if state is None else state.generation
        return dataclasses.replace(known, signed_in=False, generation=generation)
    token = state.token
    subject = changes.subject_of(token)
    if subject is None and profile.signed_in.get("lineage") == state.lineage:
        subject = profile.signed_in.get("subject")
    return dataclasses.replace(
        known,
        signed_in=True,
        subject=subject,
        scope=list(token.scope),
        expires_at=token.expires_at,
        generation=state.generation,
        refreshed_at=token.issued_at,
    )


def _as_json(one: Status) -> dict[str, Any]:
    left = None if one.expires_at is None else round(one.expires_at - time.time(), 3)
    return {**dataclasses.asdict(one), "expires_in": left}


_HEAD = ("PROFILE", "SIGNED IN", "SCOPE", "EXPIRES", "GEN.", "REFRESHED", "STORE")


def _row(one: Status) -> tuple[str, ...]:
    # The default path is not worth a column; `--json` and `doctor` show it.
    store = "file" if paths.is_default(one.store or "") else one.store or ""
    generation = "" if one.generation is None else str(one.generation)
    if one.error is not None:
        return (one.name, "?", "", "", "", "", " ".join(one.error.split()))
    if not one.signed_in:
        return (one.name, "no", "", "", generation, "", store)
    return (
        one.name,
        one.subject or "yes",
        " ".join(one.scope),
        "unknown" if one.expires_at is None else until(one.expires_at),
        generation,
        since(one.refreshed_at),
        store,
    )


def _print(found: list[Status]) -> None:
    """Print a table, or if the terminal is too narrow for it, a block for each profile.

    Does not use rich: importing it and laying out a hundred rows would double
    the command's run time.
    """
    rows = [tuple(map(printable, _row(one))) for one in found]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        for row in rows:
            say(row[0], bold=True)
            for name, cell in zip(_HEAD[1:], row[1:], strict=True):
                if cell:
                    say(*_wrapped(f"  {name.lower():<10} ", cell, width))
        return
    for row in (_HEAD, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip(), bold=row is _HEAD)


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 2 * len(label)),
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_on_hyphens=False,
    )
