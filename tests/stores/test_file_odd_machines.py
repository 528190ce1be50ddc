"""``EncryptedFileStore`` on unusual file systems, homes and volumes."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from file_faults import tapped

from requests_silent_refresh import EncryptedFileStore, StoreError, StoreUnavailable, Token
from requests_silent_refresh.keys import KeyFile, default_key_file, generate_key
from requests_silent_refresh.profiles import Profile
from requests_silent_refresh.secret_sources import FromFile
from requests_silent_refresh.system.directories import weakness
from requests_silent_refresh.system.paths import user_directory

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX modes and owners")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be several users"
)

KEY = generate_key()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync(tmp_path, code):
    """A save succeeds where sync is not supported; a real error of the disk is still one."""
    store = EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY)

    def refuse(name):
        raise OSError(code, os.strerror(code))

    with tapped("fsync", refuse) as tap:
        state = store.save(Token("a", "r"), None)
    assert "fsync" in tap.calls
    assert state.is_same(store.load())

    def broken(name):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with tapped("fsync", broken), pytest.raises(StoreUnavailable):
        store.save(Token("b", "r"), state)


def test_a_file_system_without_modes(tmp_path):
    """New files and directories are made although no mode can be set."""
    store = EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY)

    def refuse(name):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    umask = os.umask(0o177)  # so that every mode differs from the one that is wanted
    try:
        (tmp_path / "app").mkdir()
        (tmp_path / "app").chmod(0o700)
        os.umask(0o200)
        with tapped("fchmod", refuse) as tap:
            state = store.save(Token("a", "r"), None)
    finally:
        os.umask(umask)
    assert "fchmod" in tap.calls
    assert state.is_same(store.load())


def test_an_unknown_home(monkeypatch):
    """A path with ``~`` is refused in words if no home directory is known; none is named ``~``."""
    monkeypatch.delenv("HOME")
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for use in (EncryptedFileStore, KeyFile, FromFile):
        with pytest.raises(ValueError, match="home directory is not known: set HOME"):
            use("~/app/tokens")
    for use in (default_key_file, lambda: user_directory("state")):
        with pytest.raises(StoreError, match="home directory of this user is not known"):
            use()


def test_a_home_that_cannot_be_made(tmp_path):
    """Directories that cannot be created are an error at once."""
    store = EncryptedFileStore("/proc/nonexistent/a/b/tokens", key=KEY)
    with pytest.raises(StoreUnavailable, match="nonexistent"):
        store.save(Token("a"), None)
    with pytest.raises(StoreUnavailable, match="give the store a key"):
        EncryptedFileStore(tmp_path / "t", key=KeyFile("/proc/x/k", make=True)).save(
            Token("a"), None
        )


def test_a_relative_xdg_directory_is_ignored(monkeypatch, tmp_path):
    """The specification of the XDG directories asks for that."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert user_directory("state") == str(tmp_path / ".local/state/requests-silent-refresh")


def test_relative_paths_are_made_absolute_when_they_are_given(monkeypatch, tmp_path):
    """A script that changes its directory, or runs in another one, finds the same files."""
    monkeypatch.chdir(tmp_path)
    fields = {
        "store": {"kind": "file", "path": "tokens"},
        "key": [{"key_file": "a.key"}, {"passphrase": {"file": "words"}}],
        "grant": {"kind": "json", "url": "https://a.example.com", "extra": {"path": "no/file"}},
    }
    profile = Profile("work", ["https://a.example.com"], **fields)
    assert FromFile("secret").path == str(tmp_path / "secret")
    monkeypatch.chdir("/")
    assert profile.place == str(tmp_path / "tokens")
    paths = [{"key_file": f"{tmp_path}/a.key"}, {"passphrase": {"file": f"{tmp_path}/words"}}]
    assert profile.key == paths
    assert profile.grant["extra"] == {"path": "no/file"}


def test_a_private_directory_has_no_weakness(tmp_path):
    """A sticky directory above, such as /tmp, lets nobody replace what is in it."""
    assert weakness(str(tmp_path / "not" / "there" / "yet")) is None


@pytest.mark.parametrize(("mode", "words"), [(0o777, "everybody"), (0o1777, None), (0o755, None)])
def test_a_directory_that_others_may_write_to(tmp_path, mode, words):
    """The store warns once if others can replace its file by an older one."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app").chmod(mode)
    if words is None:
        EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY)
    else:
        with pytest.warns(UserWarning, match=f"can be replaced by others.*{words}"):
            EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY)


@needs_root
def test_a_directory_of_another_user(tmp_path):
    """A directory above counts too; a user's own group does not."""
    app = tmp_path / "theirs" / "app"
    app.mkdir(parents=True)
    app.chmod(0o775)
    assert weakness(str(app)) is None  # root's own group
    os.chown(app, 0, 4321)
    assert "group id 4321" in str(weakness(str(app)))
    assert weakness(str(app), 0o660) is None
    os.chown(app.parent, 4321, 4321)
    assert "belongs to user id 4321" in str(weakness(str(app), 0o660))


_AS = """
import os, sys, tempfile, warnings
warnings.simplefilter("ignore")
from requests_silent_refresh import EncryptedFileStore, Token
# Import everything first: the users may not be able to read the interpreter's files.
warm = EncryptedFileStore(tempfile.mkdtemp() + "/t", key=sys.argv[3])
with warm.exclusive(5.0, warm.save(Token("a"), None)) as hold:
    hold.begin(warm.load())
os.setgroups([4000]); os.setgid(4000); os.setuid(int(sys.argv[1])); os.umask(0o022)
store = EncryptedFileStore(sys.argv[2], key=sys.argv[3], shared_with_group=sys.argv[4] == "yes")
state = store.load()
with store.exclusive(5.0, state) as hold:
    if state:
        hold.begin(state)
    print(store.save(Token("a", "r"), state).generation)
"""


@needs_root
def test_users_of_one_group_share_a_volume():
    """With the option, containers with changing user ids go on; without it, the error names it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is private
        _share_a_volume(Path(folder))


def _share_a_volume(volume):
    os.chown(volume, 0, 4000)
    volume.chmod(0o2770)

    def run(uid, option="yes"):
        command = [sys.executable, "-c", _AS, str(uid), str(volume / "tokens"), KEY, option]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    for generation, uid in enumerate((1234, 5678, 1234), 1):
        done = run(uid)
        assert done.stdout == f"{generation}\n", done.stderr
    assert stat.S_IMODE((volume / "tokens").stat().st_mode) == 0o660
    assert "shared_with_group=True" in run(5678, "no").stderr


def test_the_option_survives_a_pickle(tmp_path):
    """A reopened store has the same modes."""
    store = EncryptedFileStore(tmp_path / "t", key=KeyFile(tmp_path / "k"), shared_with_group=True)
    assert pickle.loads(pickle.dumps(store))._mode == 0o660
