"""Connection pools that never print what they send.

``http.client.HTTPConnection.debuglevel = 1`` is a popular way to look at
requests. It goes through ``print``, where no logging filter sees it, and it
prints the ``Authorization`` header and the refresh token. Whoever sets it wants
to see the application's traffic, not to publish its credentials; so the pools
of this package keep quiet whatever it says.

To see everything, tokens included, while hunting a bug on a machine of your
own, say so before the first request::

    from requests_silent_refresh.system import quiet_pools

    quiet_pools.allow_debug_output = True
"""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool, PoolManager

    _Pool = HTTPConnectionPool
else:
    _Pool = object

#: Whether ``http.client``'s debug output may show credentials. Read whenever a
#: connection is made, so that connections kept alive stay as they are.
allow_debug_output = False


class QuietPool(_Pool):
    """Mixed into a pool class: its connections print nothing.

    The level is set on each connection as it is made, and whatever connection
    class the pool has by then (an injected TLS library, a recorder of HTTP
    traffic) is kept: a ``ConnectionCls`` of our own would shut those out.
    """

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        if not allow_debug_output:
            # On the instance, so that no class attribute set later counts. CONNECT
            # requests and responses ask the connection for its level.
            connection.debuglevel = 0
        return connection


@cache
def _quiet_class(pool_class: type[Any]) -> type[Any]:
    if issubclass(pool_class, QuietPool):
        return pool_class
    # The same name, because it shows in the messages of urllib3's exceptions.
    return type(pool_class.__name__, (QuietPool, pool_class), {"__doc__": QuietPool.__doc__})


def quiet(manager: PoolManager) -> None:
    """Have ``manager`` make quiet pools from now on.

    For any ``PoolManager``, ``ProxyManager`` or ``SOCKSProxyManager``; each keeps
    its own kind of pools. Calling it twice changes nothing.
    """
    manager.pool_classes_by_scheme = {
        scheme: _quiet_class(pool_class)
        for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }


def unconnected(manager: PoolManager) -> PoolManager:
    """Return a manager with the same settings and without its connections."""
    twin = copy.copy(manager)
    # A container of the same kind: urllib3 gives its own no public name.
    twin.pools = type(manager.pools)(manager.pools._maxsize)
    return twin


class QuietHTTPAdapter(HTTPAdapter):
    """``requests``' own transport adapter with quiet pools, also through proxies."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager; ``requests`` calls this at construction and on unpickling."""
        super().init_poolmanager(*args, **kwargs)
        quiet(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool manager for a proxy, made at its first use."""
        manager = super().proxy_manager_for(*args, **kwargs)
        quiet(manager)
        return manager
