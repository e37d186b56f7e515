"""What is written beside the traffic, and what happens when it cannot be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader
from mitmproxy.test import taddons, tflow

from aoai_gateway.inspect import capture as module
from aoai_gateway.inspect.capture import Capture
from aoai_gateway.usage.files import append


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    with taddons.context(Proxyserver(), loadcore=False) as context:
        made = Capture(tmp_path / "calls.flows")
        context.master.addons.add(made)
        assert context.options.store_streamed_bodies
        yield made


def flows(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [flow.id for flow in FlowReader(file).stream()]


def test_what_ends_is_appended(capture: Capture) -> None:
    made: list[HTTPFlow] = [tflow.tflow(resp=True) for _ in range(50)]
    for flow in made:
        capture.response(flow)
    failed = tflow.tflow(err=True)
    capture.error(failed)
    capture.done()
    assert flows(capture.path) == [*(flow.id for flow in made), failed.id]
    again = Capture(capture.path)
    again.response(made[0])
    again.done()
    assert len(flows(capture.path)) == 52
    assert stat.S_IMODE(capture.path.stat().st_mode) == 0o600


def test_nothing_happens_to_nothing(capture: Capture) -> None:
    capture.done()
    assert not capture.path.exists()


def test_a_folder_that_is_removed_is_made_anew(capture: Capture, tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    captured = Capture(folder / "calls.flows")
    folder.rmdir()
    captured.response(tflow.tflow(resp=True))
    captured.done()
    assert captured.lost == 0
    assert len(flows(captured.path)) == 1


def test_what_cannot_be_written_is_counted(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    capture.path.mkdir()
    for _ in range(3):
        capture.response(tflow.tflow(resp=True))
    capture.done()
    assert capture.lost == 3
    assert "Is a directory" in caplog.text
    assert "3 flows are missing" in caplog.text


def test_a_full_device_is_named_as_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    capture = Capture(Path("/dev/full"))
    capture.response(tflow.tflow(resp=True))
    capture.done()
    assert capture.lost == 1
    assert "No space left on device" in caplog.text


def test_a_disk_that_is_too_slow_does_not_fill_the_memory(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", -1)
    capture.response(tflow.tflow(resp=True))
    capture.done()
    assert capture.lost == 1
    assert not capture.path.exists()


def test_half_a_flow_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    append(path, b"whole")
    write, calls = os.write, 0

    def full(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        return write(file, data[:2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        append(path, b"next")
    assert path.read_bytes() == b"whole"
