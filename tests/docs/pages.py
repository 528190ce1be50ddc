"""Reading the pages: their text, and the Python code on them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def text_of(page: str) -> str:
    """Return the text of ``page``, a path below the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """Return the Python blocks of ``page``, in order."""
    return [textwrap.dedent(block) for block in BLOCK.findall(text_of(page))]


def run(code: str, page: str, names: dict[str, Any]) -> None:
    """Execute one block of ``page``; ``names`` are its globals."""
    exec(compile(code, page, "exec"), names)
