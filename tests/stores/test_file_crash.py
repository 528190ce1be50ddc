"""``EncryptedFileStore``: killed, or refused by the system, at every single system call."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from file_faults import fail_with, tapped

from requests_silent_refresh import EncryptedFileStore, StoreError, StoreUnavailable, Token
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.stores.contract import State

KEY = generate_key()
OLD, NEW = Token("old", "old-refresh"), Token("new", "new-refresh")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes fork here")


@pytest.fixture
def tmp_path(tmp_path):
    """A directory in memory where there is one: what syncing costs is not what is tested here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if os.access(memory, os.W_OK) else tmp_path
    ) as name:
        yield Path(name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app" / "tokens"


@pytest.fixture
def store(path):
    return EncryptedFileStore(path, key=KEY)


def access_token(path):
    """What a newcomer reads."""
    state = EncryptedFileStore(path, key=KEY).load()
    return None if state is None else state.token.access_token.reveal()


def beside(path):
    return sorted(set(os.listdir(path.parent)) - {"tokens", "tokens.lock", "tokens.write.lock"})


def is_refused(store, new, after, code):
    """Whether a save fails, which it may with the injected error only."""
    try:
        store.replace(new, after)
    except StoreUnavailable as error:
        if error.__cause__.errno != code:
            raise
        return True
    return False


# Each of these leaves the old state, or the new one, and nothing else.
WAYS = ["first sign-in", "sign-in", "save", "refresh"]

# Runs in a process of its own, which forks one child for each system call and has it
# killed there; then looks what a newcomer finds. Prints a line for each.
KILLER = """
import json, os, sys
from file_faults import kill, tapped
from requests_silent_refresh import EncryptedFileStore, Token
from requests_silent_refresh.stores.contract import State

folder, key, way = sys.argv[1:]
OLD, NEW = Token("old", "old-refresh"), Token("new", "new-refresh")

def act(store, state):
    if way == "refresh":
        with store.exclusive(5, state) as hold:
            hold.begin(state)
            print("sent", flush=True)
            store.save(NEW, state)
    else:
        store.save(NEW, state if way == "save" else None)

point = 0
while True:
    point += 1
    path = os.path.join(folder, str(point), "app", "tokens")
    state = None
    if way != "first sign-in":
        state = EncryptedFileStore(path, key=key).save(OLD, None)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        with tapped(point, kill):
            act(EncryptedFileStore(path, key=key), state)
        os._exit(0)
    os.close(write)
    sent = b"sent" in os.read(read, 100)
    os.close(read)
    status = os.waitpid(child, 0)[1]
    found = EncryptedFileStore(path, key=key).load()
    newcomer = EncryptedFileStore(path, key=key)
    with newcomer.exclusive(0) as hold:
        interrupted = hold.interrupted_at
    final = newcomer.load()
    print(json.dumps({
        "killed": os.WIFSIGNALED(status),
        "sent": sent,
        "found": found and found.token.access_token.reveal(),
        "final": final and final.token.access_token.reveal(),
        "interrupted": interrupted,
    }), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_every_system_call(tmp_path, way):
    """P5: SIGKILL at any call leaves the whole old or new state, and the next one goes on at once.

    Once the token was sent, a newcomer finds the new state or knows of the interruption.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLER, tmp_path, KEY, way],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    points = [json.loads(line) for line in ran.stdout.splitlines()]
    old = None if way == "first sign-in" else "old"
    # The last one ran through.
    assert [point["killed"] for point in points[-2:]] == [True, False]
    assert points[-1]["found"] == points[-1]["final"] == "new"
    for point in points:
        assert point["found"] in (old, "new")
        assert point["final"] in (point["found"], "new")
        if way == "refresh":
            lost = point["sent"] and point["final"] == "old"
            assert (point["interrupted"] is not None) == lost or not point["sent"]
        else:
            assert point["interrupted"] is None
    assert {point["found"] for point in points} == {old, "new"}
    print(f"{way}: killed at {len(points) - 1} system calls")
    assert len(points) > {"refresh": 40}.get(way, 20)
    if way == "refresh":
        # A result that was wholly written is not lost, though the rename never came.
        assert any(point["found"] == "old" and point["final"] == "new" for point in points)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR])
@pytest.mark.parametrize("way", WAYS)
def test_refused_at_every_system_call(tmp_path, way, code):
    """P4: an error at any call is StoreUnavailable, and leaves the whole old or new state.

    The same save tried again then succeeds, whatever the first one came to.
    """
    point = 0
    failed = 0
    while True:
        point += 1
        path = tmp_path / str(point) / "app" / "tokens"
        store = EncryptedFileStore(path, key=KEY)
        state = None if way == "first sign-in" else store.save(OLD, None)
        after = state if way in ("save", "refresh") else None
        new = State.first(NEW) if after is None else after.followed_by(NEW)
        hold = None
        if way == "refresh":
            hold = store.exclusive(5.0, state)
            hold.begin(state)
        with tapped(point, fail_with(code)) as tap:
            saved = not is_refused(store, new, after, code)
        failed += not saved
        through = len(tap.calls) < point
        found = access_token(path)
        assert found in (state and "old", "new")
        assert found == "new" or not saved
        store.replace(new, after)
        assert access_token(path) == "new"
        if hold is not None:
            hold.release()
        EncryptedFileStore(path, key=KEY).exclusive(0.0).release()
        assert beside(path) == []
        if through:
            break
    print(f"{way}: {os.strerror(code)} at {point - 1} system calls, {failed} of them fatal")
    assert point > 20
    assert failed > 10


def test_refused_at_every_system_call_of_a_load(store, path):
    """An error at any call of a load is StoreUnavailable, and the next load is well."""
    store.save(OLD, None)
    point = 0
    while True:
        point += 1
        with tapped(point, fail_with(errno.EIO)) as tap, contextlib.suppress(StoreUnavailable):
            EncryptedFileStore(path, key=KEY).load()
        assert access_token(path) == "old"
        if len(tap.calls) < point:
            break
    assert point > 4


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_refused_at_every_system_call_before_the_exchange(tmp_path, code):
    """P4: what fails before the refresh token is sent costs nothing: no lock, no file, no mark."""
    point = 0
    while True:
        point += 1
        path = tmp_path / str(point) / "app" / "tokens"
        store = EncryptedFileStore(path, key=KEY)
        state = store.save(OLD, None)
        with (
            tapped(point, fail_with(code)) as tap,
            contextlib.suppress(StoreError),
            store.exclusive(5.0, state) as hold,
        ):
            hold.begin(state)
        with EncryptedFileStore(path, key=KEY).exclusive(0.0, state) as hold:
            # The mark of a refresh that was given up can outlive a failed unlink only.
            assert hold.interrupted_at is None or tap.calls[point - 1] == "unlink"
        if len(tap.calls) < point:
            break
    assert point > 20


class TestInterrupted:
    """What the next holder learns of a refresh that was cut off."""

    @staticmethod
    def cut_off(path, state, *, hold=None):
        """Begin a refresh and lose the lock, as a process does that dies; returns when."""
        hold = hold or EncryptedFileStore(path, key=KEY).exclusive(1.0, state)
        hold.begin(state)
        began = time.time()
        hold._reservation = None
        hold._lock.release()
        return began

    def test_it_is_told_when(self, store, path):
        """P5: the next holder knows that a refresh of this state was cut off, and when."""
        state = store.save(OLD, None)
        began = self.cut_off(path, state)
        with store.exclusive(1.0, state) as hold:
            assert abs(hold.interrupted_at - began) < 5

    def test_it_is_told_until_the_state_moves(self, store, path):
        """Holders who got no further keep the mark, with the first moment; a save removes it."""
        state = store.save(OLD, None)
        self.cut_off(path, state)
        with store.exclusive(1.0, state) as hold:
            first = hold.interrupted_at
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first
            hold.begin(state)
        second = store.exclusive(1.0, state)
        assert second.interrupted_at == first
        self.cut_off(path, state, hold=second)
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first
            hold.begin(state)
            after = store.save(NEW, state)
        with store.exclusive(1.0, after) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    def test_a_full_disk_does_not_lose_it(self, store, path):
        """The mark of the earlier refresh survives a holder who finds no room for another."""
        state = store.save(OLD, None)
        self.cut_off(path, state)
        with store.exclusive(1.0, state) as hold:
            first = hold.interrupted_at
            for point in range(1, 30):
                with tapped(point, fail_with(errno.ENOSPC)):
                    try:
                        hold.begin(state)
                    except StoreUnavailable:
                        continue
                    break
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first

    def test_another_sign_in_ends_it(self, store, path):
        """A mark of the session that was replaced says nothing about the new one."""
        old = store.save(OLD, None)
        self.cut_off(path, old)
        anew = store.save(NEW, None)
        assert anew.generation == old.generation
        with store.exclusive(1.0, anew) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    def test_a_sign_out_ends_it(self, store, path):
        """Nor about a session that was ended."""
        old = store.save(OLD, None)
        self.cut_off(path, old)
        gone = store.clear(old)
        with store.exclusive(1.0, gone) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"lineage', b"\0" * 100, b"gAAA"])
    def test_a_mark_that_is_half_overwritten(self, store, path, content):
        """Cut off while the answer was written: that counts, at about that time."""
        state = store.save(OLD, None)
        Path(f"{path}.next.2").write_bytes(content)
        os.chmod(f"{path}.next.2", 0o600)
        with store.exclusive(1.0, state) as hold:
            assert abs(hold.interrupted_at - time.time()) < 60

    def test_a_whole_result_is_put_in_place(self, store, path):
        """P5: an answer that was written and not renamed is not lost; waiters are told it moved."""
        state = store.save(OLD, None)
        hold = EncryptedFileStore(path, key=KEY).exclusive(1.0, state)
        hold.begin(state)
        with tapped("replace", fail_with(errno.EIO)), pytest.raises(StoreUnavailable):
            hold._store.save(NEW, state)
        hold._lock.release()
        assert access_token(path) == "old"
        assert store.exclusive(1.0, state) is None
        assert access_token(path) == "new"
        assert beside(path) == []

    def test_a_whole_result_of_another_session_is_not(self, store, path):
        """A result that a sign-in has overtaken is dropped, wherever its process died."""
        state = store.save(OLD, None)
        hold = EncryptedFileStore(path, key=KEY).exclusive(1.0, state)
        hold.begin(state)
        with tapped("replace", fail_with(errno.EIO)), pytest.raises(StoreUnavailable):
            hold._store.save(NEW, state)
        hold._lock.release()
        anew = store.save(Token("anew"), None)
        with store.exclusive(1.0, anew) as hold:
            assert hold.interrupted_at is None
        assert access_token(path) == "anew"
        assert beside(path) == []

    def test_generations_that_were_never_saved(self, store, path):
        """P4: marks of later generations count, when saving had failed over several exchanges."""
        state = store.save(OLD, None)
        self.cut_off(path, State(state.lineage, 3, OLD), hold=store.exclusive(1.0))
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at is not None


@pytest.mark.parametrize("refresh", [False, True])
def test_what_is_durable_before_save_returns(store, refresh):
    """P4: content is synced before it gets its name, and the name before save returns."""
    state = store.save(OLD, None)
    hold = store.exclusive(1.0, state)
    if refresh:
        hold.begin(state)
    with tapped("nothing", fail_with(0)) as tap:
        store.save(NEW, state)
    hold.release()
    order = [name for name in tap.calls if name in ("write", "ftruncate", "fsync", "replace")]
    assert order == ["write", *(["ftruncate"] if refresh else []), "fsync", "replace", "fsync"]


def test_the_reserved_room_is_used(store, path):
    """P4: the answer goes into the room that was reserved, so a disk that filled up is no harm."""
    state = store.save(OLD, None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
        inode = os.stat(f"{path}.next.2").st_ino
        store.save(NEW, state)
        assert os.stat(path).st_ino == inode
    assert path.stat().st_size < 4096


def test_a_file_of_an_unfinished_save_is_in_nobodys_way(store, path):
    """What a dead saver left is replaced by the next one."""
    state = store.save(OLD, None)
    Path(f"{path}.new").write_bytes(b"half")
    store.save(NEW, state)
    assert access_token(path) == "new"
    assert beside(path) == []


def test_a_failed_result_is_kept_for_the_next_holder(store, path):
    """P4: released without having saved what was granted: the stored token is known to be spent."""
    state = store.save(OLD, None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
        with tapped("replace", fail_with(errno.EIO)), pytest.raises(StoreUnavailable):
            store.save(NEW, state)
    assert store.exclusive(1.0, state) is None
    assert access_token(path) == "new"
