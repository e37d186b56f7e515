"""Files of records on bad ground: a full disk, a read-only one, a folder that goes, a pipe not read."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.usage.csv_files import CsvWriter
from aoai_gateway.usage.lines import JsonLinesWriter, line_of
from aoai_gateway.usage.sink import LineSink, Sink
from aoai_gateway.usage.sinks import AnySink
from tests.usage.records import record
from tests.usage.test_sink import put, wait_until

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, which can be filled and made read-only."""
    path = tmp_path / "disk"
    path.mkdir()
    if not shutil.which("mount") or run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)):
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        run("umount", "-l", str(path))


def run(*words: str) -> int:
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode


def json_lines(folder: Path) -> LineSink:
    return LineSink("jsonl", JsonLinesWriter(folder / "usage.jsonl", rotate_bytes=200_000), gather_seconds=0)


def csv(folder: Path) -> Sink[Any]:
    return Sink("csv", CsvWriter(folder / "logs"), gather_seconds=0)


KINDS = (json_lines, csv)

type Make = Callable[[Path], AnySink]


def settle(sink: AnySink, *records: dict[str, Any]) -> None:
    """Put records, and wait until each is written or lost."""
    put(sink, *records)
    wait_until(lambda: not sink.waiting)


def rows(folder: Path) -> int:
    """Count the records in all files, which are whole."""
    count = 0
    for path in folder.rglob("*sv" if (folder / "logs").exists() else "*.jsonl"):
        text = path.read_text()
        assert text.endswith("\n") or not text
        count += text.count("\n") - text.count("request_start_minute,")
    return count


@pytest.mark.parametrize("make", KINDS)
def test_a_disk_that_fills_up_loses_whole_records_until_there_is_room(make: Make, disk: Path) -> None:
    sink = make(disk)
    settle(sink, record())
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"." * 4096)
    for _ in range(30):
        settle(sink, *(record(client="c" * 200) for _ in range(20)))
    assert sink.dropped > 0
    assert sink.trouble(time.monotonic()) == "No space left on device"
    assert rows(disk) == sink.written
    ballast.unlink()
    settle(sink, record())
    assert sink.trouble(time.monotonic()) == ""
    assert rows(disk) == sink.written
    sink.close()


@pytest.mark.parametrize("make", KINDS)
def test_a_disk_that_becomes_read_only_is_written_to_again(make: Make, disk: Path) -> None:
    sink = make(disk)
    settle(sink, record())
    if isinstance(sink, LineSink):  # a file that is open for writing keeps a disk from it
        assert not run("mount", "-o", "remount,ro", str(disk))
        settle(sink, record())
        assert (sink.dropped, sink.trouble(time.monotonic())) == (1, "Read-only file system")
        assert not run("mount", "-o", "remount,rw", str(disk))
    settle(sink, record())
    assert rows(disk) == sink.written == 2
    sink.close()


@pytest.mark.parametrize("make", KINDS)
def test_a_folder_that_is_removed_is_made_anew(make: Make, tmp_path: Path) -> None:
    folder = tmp_path if make is csv else tmp_path / "usage"
    folder.mkdir(exist_ok=True)
    sink = make(folder)
    settle(sink, record())
    (file,) = (each for each in tmp_path.rglob("*") if each.is_file())
    shutil.rmtree(file.parent)
    settle(sink, record())
    assert (sink.written, sink.dropped, sink.trouble(time.monotonic())) == (2, 0, "")
    assert rows(folder) == 1
    assert file.parent.stat().st_mode & 0o777 == 0o700
    sink.close()


@pytest.mark.parametrize("make", KINDS)
def test_a_place_that_goes_is_written_to_when_it_is_back(make: Make, tmp_path: Path) -> None:
    # As a disk that is no longer mounted: what is made anew there would hide below it.
    folder = tmp_path / "disk" / "usage"
    folder.mkdir(parents=True)
    sink = make(folder)
    settle(sink, record())
    shutil.rmtree(folder.parent)
    settle(sink, record())
    assert (sink.written, sink.dropped) == (1, 1)
    assert sink.trouble(time.monotonic()) == "No such file or directory"
    folder.mkdir(parents=True)
    settle(sink, record(), record())
    assert (sink.written, sink.trouble(time.monotonic())) == (3, "")
    assert rows(folder) == 2
    sink.close()


@pytest.mark.parametrize("make", KINDS)
def test_nothing_is_written_below_the_mount_point_of_a_disk_that_is_gone(make: Make, disk: Path) -> None:
    folder = disk / "usage"
    folder.mkdir()
    sink = make(disk if make is csv else folder)
    settle(sink, record())
    assert not run("umount", "-l", str(disk))
    settle(sink, record())
    assert (sink.written, sink.dropped) == (1, 1)
    assert sink.trouble(time.monotonic()) == "No such file or directory"
    assert not list(disk.iterdir())
    sink.close()


@pytest.mark.parametrize("make", KINDS)
def test_a_folder_that_is_a_link_to_nowhere_is_not_there(make: Make, tmp_path: Path) -> None:
    target, folder = tmp_path / "disk", tmp_path / ("logs" if make is csv else "usage")
    target.mkdir()
    folder.symlink_to(target)
    sink = make(tmp_path if make is csv else folder)
    settle(sink, record())
    shutil.rmtree(target)
    settle(sink, record())
    assert (sink.written, sink.dropped) == (1, 1)
    assert sink.trouble(time.monotonic()) == "No such file or directory"
    sink.close()


def test_a_folder_that_has_never_been_there_is_not_made(tmp_path: Path) -> None:
    # The disk that it is on may be mounted later. The one of CSV files is made: its description says so.
    sink = json_lines(tmp_path / "usage")
    settle(sink, record())
    assert (sink.dropped, sink.trouble(time.monotonic())) == (1, "No such file or directory")
    assert not list(tmp_path.iterdir())
    sink.close()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("way", ["rename", "copytruncate"])
def test_logrotate_loses_and_doubles_nothing(make: Make, way: str, tmp_path: Path) -> None:
    sink = make(tmp_path)
    settle(sink, record(), record())
    (path,) = (each for each in tmp_path.rglob("*") if each.is_file())
    aside = tmp_path / "rotated"
    if way == "rename":
        path.rename(aside)
    else:
        shutil.copyfile(path, aside)
        os.truncate(path, 0)
    settle(sink, record())
    assert sink.dropped == 0
    assert rows(tmp_path) == 1
    head = path.read_text().splitlines()[0] if path.exists() else ""
    assert make is json_lines or way == "rename" or head.startswith("request_start_minute,")
    sink.close()


def test_a_pipe_without_a_reader_hangs_nothing_but_the_sink(tmp_path: Path) -> None:
    pipe = tmp_path / "usage.jsonl"
    os.mkfifo(pipe)
    sink = LineSink("jsonl", JsonLinesWriter(pipe), gather_seconds=0)
    begun = time.monotonic()
    for _ in range(30):
        put(sink, *([record()] * 1_000))
    assert time.monotonic() - begun < 30
    wait_until(lambda: sink.dropped)
    assert sink.trouble(time.monotonic() + 60).startswith("has hung for ")
    reader = os.open(pipe, os.O_RDONLY)
    line = line_of(record())
    found = b""
    while len(found) < len(line):
        found += os.read(reader, len(line) - len(found))
    assert found == line, "what waited is read"
    os.close(reader)
    wait_until(lambda: sink.failing)
    sink.close(0.2)
    assert sink.written + sink.dropped == 30_000


def test_a_clock_that_jumps_costs_no_record(tmp_path: Path) -> None:
    now = [time.time()]
    sinks = [
        LineSink(
            "jsonl",
            JsonLinesWriter(tmp_path / "usage.jsonl", daily=True, keep=5, clock=lambda: now[0]),
            gather_seconds=0,
        ),
        Sink("csv", CsvWriter(tmp_path / "logs", daily=True, keep=5, clock=lambda: now[0]), gather_seconds=0),
    ]
    for jump in (0, 86_400, -86_400, -3 * 86_400, 10 * 86_400, 0):
        now[0] += jump
        for sink in sinks:
            settle(sink, record())
    for sink in sinks:
        assert (sink.written, sink.dropped) == (6, 0)
        sink.close()
