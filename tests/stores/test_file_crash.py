"""``EncryptedFileStore``, killed or refused by the system at every system call."""

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
from file_faults import fail_with, kill, tapped

from requests_silent_refresh import (
    EncryptedFileStore,
    StoreError,
    StoreUnavailable,
    Token,
    WrongKey,
)
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.stores.contract import State

KEY = generate_key()
OLD, NEW = Token("old", "old-refresh"), Token("new", "new-refresh")

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="needs os.fork"),
    # Threads left by other tests do not affect the children here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def tmp_path(tmp_path):
    """A directory in memory if possible, because many syncs on a disk are slow."""
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
    """Return the access token that a new process would read."""
    state = EncryptedFileStore(path, key=KEY).load()
    return None if state is None else state.token.access_token.reveal()


def beside(path):
    return sorted(set(os.listdir(path.parent)) - {"tokens", "tokens.lock", "tokens.write.lock"})


def is_refused(store, new, after, code):
    """Return whether a save fails with the injected error."""
    try:
        store.replace(new, after)
    except StoreUnavailable as error:
        if error.__cause__.errno != code:
            raise
        return True
    return False


def in_a_process_that_dies(act):
    """Call ``act`` in a forked process, and check that it was killed there."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


# Each of these leaves either the old state or the new one, and nothing else.
WAYS = ["first sign-in", "sign-in", "save", "refresh"]

# Runs in a separate process, which forks a child for each system call and has it killed
# there. Prints a line for each child, with what another process finds afterwards.
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
    """P5: SIGKILL at any call leaves the complete old or new state, and frees the lock at once.

    If the token was sent, the next holder finds the new state or learns of the interruption.
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
    # The last child was not killed.
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
        # A completely written result is not lost, even without the rename.
        assert any(point["found"] == "old" and point["final"] == "new" for point in points)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR])
@pytest.mark.parametrize("way", WAYS)
def test_refused_at_every_system_call(tmp_path, way, code):
    """P4: an error at any call is StoreUnavailable and leaves the complete old or new state.

    The same save succeeds when it is repeated, whether or not the first one failed.
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
    """An error at any call of a load is StoreUnavailable, and the next load succeeds."""
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
    """P4: a failure before the refresh token is sent leaves no lock, no file and no mark."""
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
            # Only a failed unlink can leave the mark of an abandoned refresh.
            assert hold.interrupted_at is None or tap.calls[point - 1] == "unlink"
        if len(tap.calls) < point:
            break
    assert point > 20


class TestInterrupted:
    """What the next holder learns about an interrupted refresh."""

    @staticmethod
    def cut_off(path, state, after):
        """Begin a refresh of ``state`` in a process that then dies."""

        def act():
            hold = EncryptedFileStore(path, key=KEY).exclusive(1.0, after)
            hold.begin(state)
            kill("with the lock held")

        in_a_process_that_dies(act)

    @staticmethod
    def cut_off_before_rename(path, state):
        """Refresh ``state`` in a process that dies with the result written and not renamed."""

        def act():
            store = EncryptedFileStore(path, key=KEY)
            hold = store.exclusive(1.0, state)
            hold.begin(state)
            with tapped("replace", kill):
                store.save(NEW, state)

        in_a_process_that_dies(act)

    def test_the_next_holder_learns_of_it(self, store, path):
        """P5: the next holder learns that a refresh of this state was interrupted, and when."""
        state = store.save(OLD, None)
        self.cut_off(path, state, state)
        with store.exclusive(1.0, state) as hold:
            assert abs(hold.interrupted_at - time.time()) < 5

    def test_the_mark_stays_until_the_state_changes(self, store, path):
        """Holders that do not save keep the mark with its first time; a save removes it."""
        state = store.save(OLD, None)
        self.cut_off(path, state, state)
        with store.exclusive(1.0, state) as hold:
            first = hold.interrupted_at
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first
            hold.begin(state)
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first
        self.cut_off(path, state, state)
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at == first
            hold.begin(state)
            after = store.save(NEW, state)
        with store.exclusive(1.0, after) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    def test_a_full_disk_does_not_remove_the_mark(self, store, path):
        """The mark of an earlier refresh stays if the next holder finds the disk full."""
        state = store.save(OLD, None)
        self.cut_off(path, state, state)
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

    def test_another_sign_in_removes_the_mark(self, store, path):
        """The mark of a replaced session does not apply to the new session."""
        old = store.save(OLD, None)
        self.cut_off(path, old, old)
        anew = store.save(NEW, None)
        assert anew.generation == old.generation
        with store.exclusive(1.0, anew) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    def test_another_sign_ins_mark_is_removed_beside_one_that_stays(self, store, path):
        """The mark of a replaced session goes, though this session's own mark comes before it."""
        state = store.save(OLD, None)
        self.cut_off(path, state, state)
        self.cut_off(path, State("0" * 32, 8, OLD), None)
        assert beside(path) == ["tokens.next.2", "tokens.next.9"]
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at is not None
        assert beside(path) == ["tokens.next.2"]

    def test_a_sign_out_removes_the_mark(self, store, path):
        """The mark does not apply after a sign-out."""
        old = store.save(OLD, None)
        self.cut_off(path, old, old)
        gone = store.clear(old)
        with store.exclusive(1.0, gone) as hold:
            assert hold.interrupted_at is None
        assert beside(path) == []

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"lineage', b"\0" * 100, b"gAAA"])
    def test_a_partly_overwritten_mark(self, store, path, content):
        """A refresh interrupted while its result was written counts, at the file's time."""
        state = store.save(OLD, None)
        Path(f"{path}.next.2").write_bytes(content)
        os.chmod(f"{path}.next.2", 0o600)
        with store.exclusive(1.0, state) as hold:
            assert abs(hold.interrupted_at - time.time()) < 60

    def test_a_complete_result_is_put_in_place(self, store, path):
        """P5: a result that was written but not renamed is adopted by the next holder."""
        state = store.save(OLD, None)
        self.cut_off_before_rename(path, state)
        assert access_token(path) == "old"
        assert store.exclusive(1.0, state) is None
        assert access_token(path) == "new"
        assert beside(path) == []

    def test_a_complete_result_that_cannot_be_read_is_an_error(self, store, path):
        """P1: without its key the next holder must not send the spent token; nothing is removed."""
        state = store.save(OLD, None)
        self.cut_off_before_rename(path, state)
        other = generate_key()
        result = Path(f"{path}.next.2")
        content = result.read_bytes()
        with_other = EncryptedFileStore(path, key=[other, KEY])
        with_other.rotate_key()
        later = EncryptedFileStore(path, key=other)
        for _ in range(2):
            with pytest.raises(WrongKey, match=r"next\.2 holds the result of a finished refresh"):
                later.exclusive(1.0, state)
        assert result.read_bytes() == content
        assert with_other.exclusive(1.0, state) is None
        assert with_other.load().token.access_token.reveal() == "new"

    def test_an_older_state_in_place_of_a_result_is_dropped(self, store, path):
        """A copy of an earlier state is not taken for a result, whatever its name says."""
        state = store.save(OLD, None)
        earlier = path.read_bytes()
        state = store.save(Token("newer"), state)
        Path(f"{path}.next.9").write_bytes(earlier)
        os.chmod(f"{path}.next.9", 0o600)
        store.exclusive(1.0, state).release()
        assert access_token(path) == "newer"

    def test_a_complete_result_of_a_replaced_session_is_dropped(self, store, path):
        """A result is dropped if there has been a sign-in meanwhile."""
        state = store.save(OLD, None)
        self.cut_off_before_rename(path, state)
        anew = store.save(Token("anew"), None)
        with store.exclusive(1.0, anew) as hold:
            assert hold.interrupted_at is None
        assert access_token(path) == "anew"
        assert beside(path) == []

    def test_generations_that_were_never_saved(self, store, path):
        """P4: marks of later generations count too: several exchanges could not be saved."""
        state = store.save(OLD, None)
        self.cut_off(path, State(state.lineage, 3, OLD), None)
        with store.exclusive(1.0, state) as hold:
            assert hold.interrupted_at is not None


@pytest.mark.parametrize("refresh", [False, True])
def test_what_is_durable_before_save_returns(store, refresh):
    """P4: the content is synced before the rename, and the directory before save returns."""
    state = store.save(OLD, None)
    hold = store.exclusive(1.0, state)
    if refresh:
        hold.begin(state)
    with tapped("nothing", fail_with(0)) as tap:
        store.save(NEW, state)
    hold.release()
    order = [name for name in tap.calls if name in ("write", "ftruncate", "fsync", "replace")]
    assert order == ["write", *(["ftruncate"] if refresh else []), "fsync", "replace", "fsync"]


def test_a_save_that_failed_after_the_rename_is_made_durable(store):
    """P4: the second attempt finds it stored, and still syncs the directory."""
    new = store.save(OLD, None).followed_by(NEW)
    codes = iter([0, errno.EIO])

    def act(name):
        if code := next(codes):
            fail_with(code)(name)

    with tapped("fsync", act), pytest.raises(StoreUnavailable):
        store.replace(new, store.load())
    with tapped("nothing", fail_with(0)) as tap:
        store.replace(new, None)
    assert tap.calls.count("fsync") == 1
    assert "replace" not in tap.calls


def test_the_reserved_room_is_used(store, path):
    """P4: the result is written into the reserved file, so a full disk does no harm."""
    state = store.save(OLD, None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
        inode = os.stat(f"{path}.next.2").st_ino
        store.save(NEW, state)
        assert os.stat(path).st_ino == inode
    assert path.stat().st_size < 4096


@pytest.mark.parametrize("new", [NEW, None], ids=["a refresh", "a sign-out"])
def test_the_room_of_an_earlier_refresh_is_not_used(store, path, new):
    """P4: a refresh that failed has removed its room, and a save without the lock succeeds."""
    state = store.save(OLD, None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
    store.replace(state.followed_by(new), state)
    assert store.load().generation == 2
    assert beside(path) == []


def test_a_leftover_of_an_unfinished_save(store, path):
    """The next save replaces the file that a dead process left."""
    state = store.save(OLD, None)
    Path(f"{path}.new").write_bytes(b"half")
    store.save(NEW, state)
    assert access_token(path) == "new"
    assert beside(path) == []


def test_a_result_that_failed_to_be_saved_is_kept(store, path):
    """P4: a result that could not be renamed is adopted by the next holder of the lock."""
    state = store.save(OLD, None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
        with tapped("replace", fail_with(errno.EIO)), pytest.raises(StoreUnavailable):
            store.save(NEW, state)
    assert store.exclusive(1.0, state) is None
    assert access_token(path) == "new"
