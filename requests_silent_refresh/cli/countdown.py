"""How long a code is still good, on one line of a terminal that is written over."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Countdown:
    """Shows the seconds left, where somebody reads along; says nothing elsewhere."""

    def __init__(self, live: bool) -> None:
        self._live: Any = None
        if live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def show(self, seconds: float) -> None:
        """Show that the code is good for ``seconds`` more."""
        if self._live is not None:
            minutes, rest = divmod(int(seconds), 60)
            text = f"Waiting for you to enter the code: {minutes}:{rest:02d} left"
            self._live.update(text, refresh=True)

    def __enter__(self) -> Countdown:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
