"""Keys that several threads or processes need for the first time at the same moment."""

from __future__ import annotations

import threading

import pytest
from signing_in import keyring_in_memory  # noqa: F401 (a fixture)
from wire import at_once

from requests_silent_refresh import EncryptedFileStore, StoreError, Token
from requests_silent_refresh.keys import KeyringKey, generate_key
from requests_silent_refresh.keys.key_source import Asked
from requests_silent_refresh.system.kernel_lock import KernelLock


def test_a_key_callable_is_asked_once_by_many_threads(tmp_path):
    """A key service is not asked by each thread of a program that starts."""
    key, calls, all_here = generate_key(), [], threading.Barrier(2)

    def kms():
        calls.append(1)
        all_here.wait(10)  # until the other threads wait for the key as well
        return key

    EncryptedFileStore(tmp_path / "tokens", key=key).save(Token("a", "r"), None)
    store = EncryptedFileStore(tmp_path / "tokens", key=kms)
    releasing = threading.Timer(0.1, all_here.wait, [10])
    releasing.start()
    states = at_once(16, lambda number: store.load())
    releasing.join()
    assert len(calls) == 1
    assert {state.token.access_token.reveal() for state in states} == {"a"}


def test_a_source_may_need_itself_to_read():
    """A key callable that reads with its own key ends in an error, not in a hang."""
    source = Asked(lambda: source.for_reading(None)[0].value)
    with pytest.raises(StoreError, match="the callable given for the key"):
        source.for_reading(None)


@pytest.mark.usefixtures("keyring_in_memory")
def test_threads_share_one_key_of_the_keyring():
    """Threads that save first make one key, and none is told that the keyring hangs."""
    source = KeyringKey("app")
    keys = at_once(16, lambda number: source.for_writing(None))
    assert {key.id for key in keys} == {source.for_reading(None)[0].id}


@pytest.mark.usefixtures("keyring_in_memory")
def test_processes_make_one_key_of_the_keyring(monkeypatch):
    """The key that another process makes meanwhile is used, not replaced."""
    mine, theirs = KeyringKey("app"), KeyringKey("app")
    acquire, made = KernelLock.acquire, []

    def after_the_other(lock, timeout):
        if not made:
            made.append(None)
            made[0] = theirs.for_writing(None)
        acquire(lock, timeout)

    monkeypatch.setattr(KernelLock, "acquire", after_the_other)
    assert mine.for_writing(None).id == made[0].id
