"""What a process of the crowd is made of: a manager on the file, a session, and its notes.

``python -m processes.client`` is one that does as it is told: reads its order as a
line of JSON and then ``get`` on each line, and answers each with a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

import requests

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    TokenManager,
)


class Notes:
    """A file that many processes add lines to, each with one write: in the order of the writes."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, kind, process=None, **fields):
        line = json.dumps({"kind": kind, "process": process or os.getpid(), **fields}) + "\n"
        os.write(self._fd, line.encode())


def read_notes(path):
    """Return what was noted so far."""
    with open(path) as file:
        return [json.loads(line) for line in file]


class WatchedStore(EncryptedFileStore):
    """The store, with a note of whoever holds the exclusive lock, and of every save.

    ``taken`` is noted once the lock is held and ``released`` while it still is, so
    between the two there is no room for another ``taken``, unless its holder was
    killed. ``saved`` comes after the save.
    """

    def __init__(self, path, key, notes):
        super().__init__(path, key)
        self._notes = notes

    def exclusive(self, timeout, after=None):
        hold = super().exclusive(timeout, after)
        if hold is not None:
            self._notes.add("taken")
            release = hold.release

            def released():
                if "release" in vars(hold):
                    del hold.release
                    self._notes.add("released")
                release()

            hold.release = released
        return hold

    def replace(self, new, after):
        super().replace(new, after)
        refresh = None if new.token is None else digest(new.token.refresh_token.reveal())
        self._notes.add("saved", lineage=new.lineage, generation=new.generation, refresh=refresh)


def digest(refresh_token):
    """What a refresh token is called in the notes."""
    return hashlib.sha256(refresh_token.encode()).hexdigest()[:16]


class Client:
    """One process's way to the resource."""

    def __init__(self, order):
        self.notes = Notes(order["notes"])
        self.resource = order["resource"]
        grant = RefreshTokenGrant(
            order["token_endpoint"], "client", extra={"worker": lambda: str(os.getpid())}
        )
        self.manager = TokenManager(
            grant,
            WatchedStore(order["path"], order["key"], self.notes),
            **order.get("options", {}),
        )
        self.session = requests.Session()
        self.session.trust_env = False
        SilentRefreshAdapter(
            self.manager, self.resource.rpartition("/")[0], pool_maxsize=16
        ).mount_on(self.session)

    def get(self):
        """Send a request; return its status, or what it raised."""
        try:
            return {"status": self.session.get(self.resource, timeout=60).status_code}
        except Exception as error:
            holder = getattr(error, "holder", None)
            return {"error": type(error).__name__, "message": str(error), "holder": holder}


def main():
    """Do as the lines say."""
    client = Client(json.loads(sys.stdin.readline()))
    print(json.dumps({"process": os.getpid()}), flush=True)
    for line in sys.stdin:
        assert line == "get\n"
        print(json.dumps(client.get()), flush=True)


if __name__ == "__main__":
    main()
