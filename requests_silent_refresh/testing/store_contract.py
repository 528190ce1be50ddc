"""``StoreContract``: the tests that every token store must pass, including your own."""

from __future__ import annotations

from .store_lock_tests import LockTests
from .store_state_tests import StateTests


class StoreContract(StateTests, LockTests):
    """The contract of :class:`~requests_silent_refresh.stores.contract.TokenStore`, as tests.

    >>> class TestMyStore(StoreContract):  # in your tests, for pytest to collect
    ...     def make_store(self, tmp_path):
    ...         return EncryptedFileStore(tmp_path / "tokens")  # your store

    Override ``make_store(tmp_path)``. If the store is ``shared``, other processes open it
    with what ``opener(store)`` returns, which by default unpickles the pickled store.
    Override ``opener`` if your store cannot be pickled.
    """
