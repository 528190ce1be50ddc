"""``copy.deepcopy(session)`` works as with any session of ``requests`` (P13)."""

from __future__ import annotations

import copy

import pytest
import requests
from requests.adapters import HTTPAdapter
from wire import session_of

from requests_silent_refresh import SilentRefreshAdapter


class MySession(requests.Session):
    """An SDK's own session, with a state of its own."""

    __attrs__ = (*requests.Session.__attrs__, "base")

    def __init__(self):
        super().__init__()
        self.base = {"url": "/resource"}


class MyAdapter(SilentRefreshAdapter):
    """A subclass of the adapter."""


def decides(response):
    return response.status_code == 401


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("transport", [None, HTTPAdapter])
@pytest.mark.parametrize("session_class", [requests.Session, MySession])
@pytest.mark.parametrize("adapter_class", [SilentRefreshAdapter, MyAdapter])
def test_a_copied_session_refreshes_through_the_same_manager(
    copied, transport, session_class, adapter_class, server, manager
):
    """P1, P13: two copies are one session to the server, whatever they are made of."""
    transport = transport and transport()
    with session_class() as session:
        adapter = adapter_class(manager, server.url, transport=transport, is_rejected=decides)
        adapter.mount_on(session)
        assert session.get(server.resource).status_code == 200
        twin = copied(session)
        server.revoke_access_tokens()
        with twin:
            assert type(twin) is session_class
            assert twin.get(server.resource).status_code == 200
            assert session.get(server.resource).status_code == 200
            assert type(twin.get_adapter(server.resource)) is adapter_class
            assert twin.get_adapter(server.resource).manager is manager
    assert server.counters.exchanges == 1


def test_a_deep_copy_has_connections_of_its_own(server, manager):
    """P13: closing the copy leaves the original's connections open."""
    with session_of(manager, server.url) as session:
        assert session.get(server.resource).status_code == 200
        twin = copy.deepcopy(session)
        adapter, theirs = session.get_adapter(server.url), twin.get_adapter(server.url)
        assert theirs is not adapter
        assert theirs.poolmanager is not adapter.poolmanager
        twin.close()
        assert session.get(server.resource).status_code == 200
        assert server.connections == 1
