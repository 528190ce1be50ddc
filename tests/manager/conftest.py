"""Fixtures that several files of this folder use."""

from __future__ import annotations

import threading

import pytest


@pytest.fixture
def quick(monkeypatch):
    """Let the background thread try again at once to save a token; no parameter sets the pause."""
    monkeypatch.setattr("requests_silent_refresh.manager.unsaved_token.SAVE_RETRY", 0.02)


@pytest.fixture
def no_saver(monkeypatch):
    """Let no background thread start that tries again to save a token."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-save":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
