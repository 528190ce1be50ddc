"""Recorders write requests to files: vcrpy with its defaults, and YAML by itself (P12)."""

from __future__ import annotations

import pytest
import vcr
import yaml
from wire import bearer_of, session_of

from requests_silent_refresh.redaction import HeaderValue


@pytest.fixture
def cassette(server, manager, tmp_path):
    """The path of a cassette that was recorded with vcrpy's defaults."""
    path = tmp_path / "cassette.yaml"
    with session_of(manager, server.url) as session, vcr.use_cassette(str(path)):
        assert session.get(server.resource).status_code == 200
    return path


def test_a_cassette_is_written_without_the_token(manager, cassette):
    """P12: the wire gets the token, the file a mask."""
    (recorded,) = yaml.safe_load(cassette.read_text())["interactions"]
    assert recorded["request"]["headers"]["Authorization"] == ["***"]
    assert bearer_of(manager) not in cassette.read_text()


def test_a_cassette_is_played_back(server, manager, cassette):
    """P13: the recorded response is read as any other."""
    before = server.counters.requests
    with (
        session_of(manager, server.url) as session,
        vcr.use_cassette(str(cassette), record_mode="none"),
    ):
        assert session.get(server.resource).json()["path"] == "/resource"
    assert server.counters.requests == before


@pytest.mark.parametrize("name", ["Dumper", "SafeDumper", "CDumper", "CSafeDumper"])
def test_every_dumper_of_pyyaml_masks_the_header(name, server, session):
    """P12: a header that was sent once is a plain, masked string in YAML."""
    assert session.get(server.resource).status_code == 200
    written = yaml.dump({"header": HeaderValue("Bearer secret")}, Dumper=getattr(yaml, name))
    assert yaml.safe_load(written) == {"header": "***"}
