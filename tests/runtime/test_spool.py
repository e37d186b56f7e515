"""One upload on disk."""

from __future__ import annotations

import os
import stat
from threading import Event, Thread

import pytest

from aoai_gateway.runtime import spool as module
from aoai_gateway.runtime.spool import Spool
from aoai_gateway.wire.gateway_error import GatewayError


def test_what_was_written_is_read_in_parts():
    spool = Spool()
    spool.write(b"01234")
    spool.write(b"56789")
    assert len(spool) == 10
    assert (spool.read(0, 10), spool.read(3, 7), spool.read(8, 99), spool.read(5, 5)) == (
        b"0123456789",
        b"3456",
        b"89",
        b"",
    )
    spool.close()


def test_its_file_has_no_name_and_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool()
    spool.write(b"secret")
    about = os.fstat(spool._file.fileno())
    assert stat.S_IMODE(about.st_mode) == 0o600
    assert about.st_nlink == 0
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_nothing_is_read_of_it_once_it_is_closed():
    spool = Spool()
    spool.write(b"secret")
    go_on = Event()
    module._CLOSER.submit(go_on.wait, 30)
    spool.close()
    spool.close()
    assert not spool._file.closed
    assert spool.read(0, 6) == b""
    with pytest.raises(ValueError, match="closed"):
        spool.write(b"more")
    go_on.set()
    module._CLOSER.submit(int).result(30)
    assert spool._file.closed
    assert spool.read(0, 6) == b""


def test_to_close_it_waits_for_no_reader():
    spool = Spool()
    with spool._lock:
        closing = Thread(target=spool.close, daemon=True)
        closing.start()
        closing.join(10)
        assert not closing.is_alive()
        assert not spool._file.closed
    module._CLOSER.submit(int).result(30)
    assert spool._file.closed


def test_where_no_file_can_be_made_it_is_503(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(GatewayError) as refused:
        Spool()
    assert refused.value.status == 503
    assert "gone" not in refused.value.message
