"""A process of the crowd: a manager on the shared file, a session, and its notes.

``python -m processes.client`` reads its order as a line of JSON. It then sends a request
for each line ``get`` and answers each line with a line of JSON.
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
    """A file to which many processes append; each note is one write, so the order is kept."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, kind, process=None, **fields):
        line = json.dumps({"kind": kind, "process": process or os.getpid(), **fields}) + "\n"
        os.write(self._fd, line.encode())


def read_notes(path):
    """Return the notes so far."""
    with open(path) as file:
        return [json.loads(line) for line in file]


class WatchedStore(EncryptedFileStore):
    """The store, with a note for each hold of the exclusive lock and for each save.

    ``taken`` is noted after the lock was taken and ``released`` before it is released, so
    no other ``taken`` can come between the two unless the holder was killed. ``saved`` is
    noted after the save.
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
    """Return the name of a refresh token in the notes."""
    return hashlib.sha256(refresh_token.encode()).hexdigest()[:16]


class Client:
    """The manager and the session of one process."""

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
        """Send a request; return its status or the exception it raised."""
        try:
            return {"status": self.session.get(self.resource, timeout=60).status_code}
        except Exception as error:
            holder = getattr(error, "holder", None)
            return {"error": type(error).__name__, "message": str(error), "holder": holder}


def main():
    """Execute the commands from the input."""
    client = Client(json.loads(sys.stdin.readline()))
    print(json.dumps({"process": os.getpid()}), flush=True)
    for line in sys.stdin:
        assert line == "get\n"
        print(json.dumps(client.get()), flush=True)


if __name__ == "__main__":
    main()
