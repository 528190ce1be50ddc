"""The memory and file stores pass the contract's tests."""

from __future__ import annotations

import pickle

import pytest

from requests_silent_refresh import EncryptedFileStore, MemoryStore
from requests_silent_refresh.keys import KeyFile
from requests_silent_refresh.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, tmp_path):
        return MemoryStore()

    def test_it_cannot_be_pickled(self, store, signed_in):
        """P12: the pickle would contain tokens, so the error says which store to use instead."""
        with pytest.raises(TypeError, match="EncryptedFileStore"):
            pickle.dumps(store)


class TestEncryptedFileStore(StoreContract):
    def make_store(self, tmp_path):
        key = KeyFile(tmp_path / "keys" / "a.key", make=True)
        return EncryptedFileStore(tmp_path / "state" / "app" / "tokens", key=key)
