"""Connection pools that never print what they send.

``http.client.HTTPConnection.debuglevel = 1`` is a popular way to debug requests. Its output
goes through ``print``, where no logging filter sees it, and contains the ``Authorization``
header and the refresh token. The purpose is to see the application's traffic, not to publish
its credentials, so the pools of this package ignore the setting.

To see everything, including tokens, while debugging on your own machine, set this before the
first request::

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

#: Whether the debug output of ``http.client`` may show credentials. It is read when a connection
#: is made, so existing connections do not change.
allow_debug_output = False


class QuietPool(_Pool):
    """A mixin for pool classes, whose connections then print nothing.

    The level is set on each new connection. The pool keeps its connection class, which may come
    from an injected TLS library or a recorder of HTTP traffic; a ``ConnectionCls`` of this
    package would disable those.
    """

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        if not allow_debug_output:
            # On the instance, so that a class attribute that is set later has no effect. Responses
            # and CONNECT requests take their level from the connection.
            connection.debuglevel = 0
        return connection


@cache
def _quiet_class(pool_class: type[Any]) -> type[Any]:
    if issubclass(pool_class, QuietPool):
        return pool_class
    # The same name, because it appears in the messages of urllib3's exceptions.
    return type(pool_class.__name__, (QuietPool, pool_class), {"__doc__": QuietPool.__doc__})


def quiet(manager: PoolManager) -> None:
    """Make ``manager`` create quiet pools from now on.

    Works for any ``PoolManager``, ``ProxyManager`` or ``SOCKSProxyManager``; each keeps its own
    pool classes as bases. A second call has no effect.
    """
    manager.pool_classes_by_scheme = {
        scheme: _quiet_class(pool_class)
        for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }


def unconnected(manager: PoolManager) -> PoolManager:
    """Return a manager with the same settings and without connections."""
    twin = copy.copy(manager)
    # type() of the container, because urllib3 does not export its class.
    twin.pools = type(manager.pools)(manager.pools._maxsize)
    return twin


class QuietHTTPAdapter(HTTPAdapter):
    """The standard transport adapter of ``requests``, with quiet pools, also through proxies."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool manager; ``requests`` calls this at construction and on unpickling."""
        super().init_poolmanager(*args, **kwargs)
        self.adjust(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool manager for a proxy, which is created at its first use."""
        manager = super().proxy_manager_for(*args, **kwargs)
        self.adjust(manager)
        return manager

    def adjust(self, manager: PoolManager) -> None:
        """Change the pools that ``manager`` will create. A second call has no effect."""
        quiet(manager)
