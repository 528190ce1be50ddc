"""Where a secret may show: everything that a person or a program may see, collected as text."""

from __future__ import annotations

import base64
import http.client
import logging
import pickle
import traceback
import warnings

import pytest
import requests

import requests_silent_refresh

SECRET = "canary-client-secret-2f6b"
PACKAGE = requests_silent_refresh.__path__[0]


class Channels:
    """Everything that was shown, as text, and the canaries that must not be in it."""

    def __init__(self):
        self.said = []
        self.canaries = {SECRET}

    def add_token(self, token):
        self.canaries.add(token.access_token.reveal())
        if token.refresh_token is not None:
            self.canaries.add(token.refresh_token.reveal())
        return token

    def hear(self, text):
        self.said.append(text)

    def look_at(self, thing):
        """Record what printing, formatting, logging and pickling ``thing`` shows."""
        for show in (repr, str, ascii, "{}".format, "{!r}".format, lambda t: f"{t!s:>40}"):
            self.hear(show(thing))
        self.hear(repr(getattr(thing, "__dict__", "")))
        for protocol in (0, 2, pickle.HIGHEST_PROTOCOL):
            try:
                self.hear(pickle.dumps(thing, protocol).decode("latin-1"))
            except Exception as error:
                self.hear(str(error))

    def look_into(self, error):
        """Record what an exception and its chain show, with the locals of the package's frames."""
        seen = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            self.look_at(error)
            self.hear("".join(traceback.format_exception(error)))
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            for frame in shown.stack:
                if frame.filename.startswith(PACKAGE):
                    self.hear(f"{frame.filename}:{frame.lineno} {frame.name} {frame.locals}")
            for name in ("request", "response"):
                self.look_at_message(getattr(error, name, None))
            self.hear(repr(error.args))
            error = error.__cause__ or error.__context__

    def look_at_message(self, message):
        """Record a request or a response, with its headers and its history."""
        if message is None:
            return
        self.look_at(message)
        self.hear(f"{message.headers} {list(message.headers.items())} {message.url}")
        for item in message.headers.values():
            self.hear(str(item))
        body = getattr(message, "body", None)
        self.hear(repr(body))
        if isinstance(message, requests.Response):
            self.hear(message.text)
            self.look_at_message(message.request)
            for earlier in message.history:
                self.look_at_message(earlier)

    def found(self):
        """Return the canaries that were shown, plain or in base64, with their context."""
        hidden = {c: c for c in self.canaries}
        hidden |= {base64.b64encode(c.encode()).decode().rstrip("="): c for c in self.canaries}
        hidden |= {base64.b64encode(f"client:{SECRET}".encode()).decode(): SECRET}
        return [
            f"{canary} in {text[max(0, text.index(form) - 120) : text.index(form) + 60]!r}"
            for text in self.said
            for form, canary in hidden.items()
            if form in text
        ]


@pytest.fixture
def channels(caplog, capfd, recwarn, monkeypatch):
    """The process's channels: the root logger at DEBUG, output of ``http.client``, warnings."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    warnings.simplefilter("always")
    channels = Channels()
    with caplog.at_level(logging.DEBUG):
        yield channels
        for record in caplog.records:
            channels.hear(record.getMessage())
            channels.hear(repr(vars(record)))
            channels.hear(logging.Formatter().format(record))
        out, err = capfd.readouterr()
        channels.hear(out)
        channels.hear(err)
        for warning in recwarn:
            channels.hear(str(warning.message))
        assert channels.said
        assert channels.found() == []
