"""``StoreContract``: the tests that every token store passes, also one of your own.

::

    from requests_silent_refresh.testing import StoreContract


    class TestMyStore(StoreContract):
        def make_store(self, tmp_path):
            return MyStore(tmp_path / "tokens")

Where a store is ``shared``, other processes open it by what :meth:`StoreContract.opener`
returns; by default that is the pickled store.
"""

from __future__ import annotations

from .store_lock_tests import LockTests
from .store_state_tests import StateTests


class StoreContract(StateTests, LockTests):
    """The contract of :class:`~requests_silent_refresh.stores.contract.TokenStore`, as tests.

    Override ``make_store(tmp_path)``, and ``opener(store)`` where the store is
    not pickled.
    """
