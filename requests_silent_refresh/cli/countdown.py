"""The seconds a device code is still valid, on one terminal line that is rewritten in place."""

from __future__ import annotations

from typing import Any


class Countdown:
    """Shows the seconds left if ``live``, which is meant for a terminal; otherwise nothing."""

    def __init__(self, live: bool) -> None:
        self._live: Any = None
        if live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def show(self, seconds: float) -> None:
        """Show that the code is valid for ``seconds`` more."""
        if self._live is not None:
            minutes, rest = divmod(int(seconds), 60)
            text = f"Waiting for you to enter the code: {minutes}:{rest:02d} left"
            self._live.update(text, refresh=True)

    def __enter__(self) -> Countdown:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
