"""Where usage records go, also when that place fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.usage import sink as sinks
from aoai_gateway.usage.lines import JsonLinesWriter, StdoutWriter, line_of
from aoai_gateway.usage.sink import Line, LineSink, Sink
from aoai_gateway.usage.sinks import AnySink


def opened(target: Path | str) -> LineSink:
    writer = StdoutWriter() if target == "stdout" else JsonLinesWriter(Path(target))
    return LineSink(str(target), writer)


def put(made: AnySink, *records: dict[str, Any]) -> None:
    if isinstance(made, LineSink):
        made.put([line_of(record) for record in records])
    else:
        made.put(records)


@contextmanager
def sink(target: Path | str) -> Iterator[LineSink]:
    made = opened(target)
    try:
        yield made
    finally:
        made.close()
        assert not made._thread.is_alive()


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_until(is_so: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def written_or_dropped(made: AnySink) -> None:
    """Wait until the thread has taken all that was put."""
    wait_until(lambda: not made._queue)


def test_a_record_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with sink(path) as made:
        for n in range(1_000):
            put(made, {"n": n, "client": "Büro\n"})
    assert lines(path) == [{"n": n, "client": "Büro\n"} for n in range(1_000)]
    assert made.dropped == 0


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    for n in range(2):
        with sink(path) as made:
            put(made, {"n": n})
    assert lines(path) == [{"n": 0}, {"n": 1}]


def test_a_file_that_was_rotated_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with sink(path) as made:
        put(made, {"n": 0})
        wait_until(path.exists)
        path.rename(tmp_path / "usage.jsonl.1")
        put(made, {"n": 1})
    assert lines(path) == [{"n": 1}]


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with sink("stdout") as made:
        put(made, {"n": 1})
    assert capsys.readouterr().out == '{"n":1}\n'


@pytest.mark.parametrize("text", ["Büro", "\ud800", "日本", "😀"])
def test_no_encoding_stops_the_log(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with out.open("w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        with sink("stdout") as made:
            put(made, {"client": text})
            put(made, {"n": 2})
    assert lines(out) == [{"client": text}, {"n": 2}]


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "not yet there" / "usage"
    path = folder / "usage.jsonl"
    with caplog.at_level(logging.WARNING), sink(path) as made:
        for n in range(3):
            put(made, {"n": n})
            wait_until(lambda lost=n + 1: made.dropped == lost)
        assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"]
        assert caplog.records[-1].getMessage().endswith("2 records are lost.")
        assert str(path) in caplog.text
        assert "No such file" in caplog.text
        folder.mkdir(parents=True)
        put(made, {"n": 3})
    assert lines(path) == [{"n": 3}]
    assert made.dropped == 3
    assert "can be written again; 3 records are lost." in caplog.text
    assert caplog.text.endswith("lacks 3 records.\n")


def test_a_closed_standard_output_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = (tmp_path / "out").open("w")
    gone.close()
    monkeypatch.setattr(sys, "stdout", gone)
    with caplog.at_level(logging.WARNING), sink("stdout") as made:
        put(made, {"n": 1})
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"]
    assert made.dropped == 1


def test_a_full_disk_says_how_many_records_were_lost(caplog: pytest.LogCaptureFixture) -> None:
    with sink("/dev/full") as made:
        for n in range(100):
            put(made, {"n": n})
            written_or_dropped(made)
    assert made.dropped == 100
    assert "No space left on device; 1 records are lost." in caplog.text
    assert len(caplog.records) < 12, "not a line for each of them"
    assert caplog.text.endswith("/dev/full lacks 100 records.\n")


def test_half_a_record_is_taken_back_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, full = tmp_path / "usage.jsonl", os.write, True

    def some(file: int, data: bytes) -> int:
        if not full:
            return write(file, data)
        if len(data) > 5:
            return write(file, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", some)
    with sink(path) as made:
        put(made, {"n": 1})
        written_or_dropped(made)
        wait_until(lambda: made.dropped)
        full = False
        put(made, {"n": 2})
    assert lines(path) == [{"n": 2}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_slow_disk_drops_records_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "CAPACITY", 10)
    slow = threading.Event()
    path = tmp_path / "usage.jsonl"
    write = JsonLinesWriter.write

    def wait(self: JsonLinesWriter, batch: list[Line]) -> int:
        assert slow.wait(40)
        return write(self, batch)

    monkeypatch.setattr(JsonLinesWriter, "write", wait)
    with sink(path) as made:
        put(made, {"n": 0})
        written_or_dropped(made)  # the thread holds this one now
        begin = time.monotonic()
        for n in range(1, 31):
            put(made, {"n": n})
        assert time.monotonic() - begin < 5, "putting never waits"
        assert made.dropped == 20
        slow.set()
    assert lines(path) == [{"n": n} for n in range(11)]


def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sinks, "CAPACITY", 1)
    stuck = threading.Event()
    monkeypatch.setattr(JsonLinesWriter, "write", lambda self, batch: int(not stuck.wait(40)))
    made = opened(tmp_path / "usage.jsonl")
    put(made, {"n": 0})
    written_or_dropped(made)
    put(made, {"n": 1})
    begin = time.monotonic()
    made.close(seconds=0.05)
    assert time.monotonic() - begin < 5
    stuck.set()
    made.close()
    assert not made._thread.is_alive()


def test_a_batch_in_the_hands_of_a_writer_that_hangs_is_lost_too(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Hanging()
    made = Sink("x", stuck)
    for n in range(3):
        put(made, {"n": n})
        stuck.begun.wait(60)
    assert made.waiting == 3
    made.close(seconds=0.01)
    assert (made.written, made.dropped, made.waiting) == (0, 3, 0)
    assert caplog.text.endswith("x lacks 3 records.\n")
    stuck.goes_on.set()
    made._thread.join(60)
    assert (made.written, made.dropped) == (0, 3), "what has been told stays true"
    assert stuck.closed


def test_a_record_that_comes_after_the_end_is_counted() -> None:
    stuck = Hanging()
    stuck.goes_on.set()
    made = Sink("x", stuck)
    made.close()
    put(made, {"n": 0})
    assert (made.written, made.dropped, made.waiting) == (0, 1, 0)


class Away:
    """Writes elsewhere, which is away; of a batch of zeros it writes nothing."""

    def __init__(self) -> None:
        self.wrote = threading.Event()

    def write(self, records: list[dict[str, int]]) -> int | None:
        self.wrote.set()
        if not any(record["n"] for record in records):
            return None
        raise sinks.SinkError("it is away")

    def close(self) -> None:
        """Nothing is open."""


def test_a_batch_of_which_nothing_is_written_does_not_say_that_all_is_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Away()
    made = Sink("x", away, gather_seconds=0.0)
    for n in (1, 0):
        away.wrote.clear()
        put(made, {"n": n})
        assert away.wrote.wait(60)
    made.close()
    assert made.trouble(time.monotonic()) == "it is away"
    assert (made.written, made.dropped) == (1, 1)
    assert "can be written again" not in caplog.text


def test_what_a_writer_says_of_itself_is_trouble_too() -> None:
    made = Sink("x", Noting(), trouble=lambda: "metrics are not taken")
    assert made.trouble(time.monotonic()) == "metrics are not taken"
    made.close()


class Noting:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.wrote = threading.Event()

    def write(self, records: list[dict[str, int]]) -> int:
        self.batches.append([record["n"] for record in records])
        self.wrote.set()
        return 0

    def close(self) -> None:
        """Nothing is open."""


def test_records_gather_and_the_end_does_not_wait_for_more() -> None:
    noting = Noting()
    made = Sink("x", noting, gather_seconds=600.0)
    put(made, {"n": 0})
    assert noting.wrote.wait(60), "one that comes alone does not wait"
    for n in range(1, 10):
        put(made, {"n": n})
    assert noting.batches == [[0]]
    made.close()
    assert noting.batches == [[0], list(range(1, 10))]
    assert (made.written, made.dropped, made.waiting) == (10, 0, 0)


def test_a_record_that_stays_alone_is_written_too() -> None:
    noting = Noting()
    made = Sink("x", noting)
    for n in range(3):
        noting.wrote.clear()
        put(made, {"n": n})
        assert noting.wrote.wait(60)
    assert noting.batches == [[0], [1], [2]]
    made.close()


def test_what_is_more_than_a_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "MOST_AT_ONCE", 4)
    noting = Noting()
    made = Sink("x", noting, gather_seconds=0.0)
    with made._lock:
        made._queue.extend({"n": n} for n in range(10))
        made._unsettled = 10
        made._come.set()
    made.close()
    assert noting.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


class Hanging:
    def __init__(self) -> None:
        self.begun, self.goes_on, self.closed = threading.Event(), threading.Event(), False

    def write(self, records: list[dict[str, int]]) -> int:
        self.begun.set()
        assert self.goes_on.wait(60)
        return 0

    def close(self) -> None:
        self.closed = True
