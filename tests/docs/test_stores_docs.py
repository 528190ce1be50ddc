"""The code of docs/stores.rst runs as it stands."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import keyring
import keyring.backend

PAGE = Path(__file__).parents[2] / "docs" / "stores.rst"


class Vault(keyring.backend.KeyringBackend):
    """A keyring in memory, so that no test touches that of the person who runs it."""

    priority = 1
    get_password = set_password = delete_password = lambda self, *words: None


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    """Each block of the page runs after those before it, in a home directory of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name in ("REPORT_TOKEN_KEY", "REPORT_PASSPHRASE"):
        monkeypatch.setenv(name, "")
    before = keyring.get_keyring()
    keyring.set_keyring(Vault())
    try:
        page = PAGE.read_text(encoding="utf-8")
        blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page)
        names: dict = {"__name__": "page"}
        for block in blocks:
            exec(compile(textwrap.dedent(block), str(PAGE), "exec"), names)
    finally:
        keyring.set_keyring(before)
    assert len(blocks) == 10
    assert "is not among" in capsys.readouterr().out
    assert (tmp_path / ".local/state/nightly-report/tokens").exists()
    if os.name == "posix" and os.uname().sysname == "Linux":
        key = tmp_path / ".local/share/requests-silent-refresh/keys/default.key"
        assert len(key.read_text().split()) == 2  # the page says where it is, and adds one
    (quarantined,) = (tmp_path / ".local/state/rotation").glob("tokens.quarantine.*")
    assert quarantined.stat().st_size > 100
