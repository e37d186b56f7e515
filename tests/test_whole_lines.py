"""What several threads and processes write to standard output, a line at a time."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import pytest
from mitmproxy.addons.termlog import TermLogHandler

from aoai_gateway import whole_lines
from aoai_gateway.app import log_format
from aoai_gateway.usage.lines import StdoutWriter, line_of
from aoai_gateway.whole_lines import AT_ONCE, WholeLines, write_lines


class Recorder(io.StringIO):
    """A file that keeps what it is told at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


def test_a_line_in_parts_is_written_when_it_ends() -> None:
    out = Recorder()
    file = WholeLines(out)
    print("one", 2, file=file)
    print("three\nfour", file=file)
    assert out.written == ["one 2\n", "three\nfour\n"]


def test_no_more_is_written_at_once_than_a_pipe_takes() -> None:
    out = Recorder()
    lines = [f"{n}{'ü' * n}\n" for n in (1_500, 300, 100, AT_ONCE, 5)]
    write_lines(out, "".join(lines))
    assert out.getvalue() == "".join(lines)
    assert len(out.written) > 1
    assert all(text.endswith("\n") for text in out.written)
    assert all(len(text.encode()) <= AT_ONCE or text.count("\n") == 1 for text in out.written)


def test_the_log_and_the_records_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Recorder()
    monkeypatch.setattr(sys, "stdout", out)
    handler = TermLogHandler(out)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    for _ in range(2):
        log_format.write_whole_lines()
    handler.emit(logging.LogRecord("x", logging.WARNING, __file__, 1, "two\nlines", (), None))
    StdoutWriter().write([line_of({"n": 1}), line_of({"n": 2})])
    assert all(text.endswith("\n") for text in out.written)
    assert out.getvalue().splitlines()[-2:] == ['{"n":1}', '{"n":2}']
    assert "two" in out.written[0]


@contextmanager
def full_pipe() -> Iterator[tuple[TextIO, int, int]]:
    """A pipe that takes no more: its end to write to, its other end, and how many bytes are in it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    size = 0
    with suppress(BlockingIOError):
        while True:
            size += os.write(writing, b"." * AT_ONCE)
    os.set_blocking(writing, True)
    with open(writing, "w", encoding="utf-8") as file:
        yield file, reading, size
    os.close(reading)


def read(descriptor: int, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += os.read(descriptor, count - len(found))
    return found


def test_the_log_does_not_wait_for_a_reader_that_has_stopped() -> None:
    with full_pipe() as (out, reading, size):
        file: Any = WholeLines(out)
        lines = [f"line {n}" for n in range(5)] + ["l" * 3 * AT_ONCE]
        for line in lines:
            print(line, file=file)
        wanted = "".join(f"{line}\n" for line in lines)
        assert read(reading, size + len(wanted)).decode() == "." * size + wanted
        print("again", file=file)
        assert read(reading, 6) == b"again\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how full a pipe is")
def test_the_log_leaves_a_pipe_that_others_may_fill_at_once_to_a_thread() -> None:
    """Between a look at a pipe and the write, another process may fill it."""
    with full_pipe() as (out, reading, size):
        read(reading, size // 2)
        assert whole_lines._write_at_once(out, "line\n") == "line\n"
        read(reading, size // 4)
        assert whole_lines._write_at_once(out, "line\n") == ""


def test_records_that_wait_for_a_reader_do_not_hold_up_the_log() -> None:
    with full_pipe() as (out, reading, size):
        records = threading.Thread(target=write_lines, args=[out, "r" * 2 * AT_ONCE + "\n"])
        records.start()
        file: Any = WholeLines(out)
        print("log", file=file)
        found = read(reading, size + 2 * AT_ONCE + 1 + 4).decode().removeprefix("." * size)
        records.join(60)
    assert sorted(found.split("\n")) == ["", "log", "r" * 2 * AT_ONCE]


def test_lines_for_which_there_is_no_room_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_lines, "MOST_WAITING", 3)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with full_pipe() as (out, reading, size):
        file: Any = WholeLines(out)
        handler = logging.StreamHandler(file)
        monkeypatch.setattr(whole_lines.logger, "handlers", [handler])
        for n in range(10):
            print(n, file=file)
        read(reading, size)
        lines = read(reading, 6).decode().split()
        told = b""
        while not told.endswith(b"read.\n"):
            told += os.read(reading, 100)
    assert lines == ["0", "1", "2"]
    # The thread may have one in its hands, beside three that wait; then one more comes to wait, at any time.
    pattern = rb"([3-9]\n)?([67]) lines of the log are lost: standard output was not read\.\n"
    found = re.fullmatch(pattern, told)
    assert found
    assert int(found[2]) == (6 if found[1] else 7)


STUCK = """
import sys
from aoai_gateway.whole_lines import WholeLines
file = WholeLines(sys.stdout)
for n in range(2_000):
    print("line " + "l" * 200, file=file)
sys.stderr.write("done")
"""


def test_a_process_ends_though_no_line_is_read() -> None:
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", STUCK], stdout=writing, stderr=subprocess.PIPE, timeout=60, check=True
        )
    finally:
        os.close(writing)
        os.close(reading)
    assert done.stderr == b"done"


LAST_LINE = """
import os, select, sys
from aoai_gateway import whole_lines
from aoai_gateway.app import processes

whole_lines.LAST_SECONDS = 60
reading, writing = os.pipe()
out = open(writing, "w")
os.set_blocking(writing, False)
size = 0
try:
    while True:
        size += os.write(writing, b"." * whole_lines.AT_ONCE)
except BlockingIOError:
    os.set_blocking(writing, True)

def run(pipe):
    finish = whole_lines.finish
    whole_lines.finish = lambda: (processes.say(pipe), finish())
    print("the last line", file=whole_lines.WholeLines(out))
    return 0

child = processes.start("child", run)
select.select([child.pipe], [], [])  # it says that it finishes, or has ended
while size:
    size -= len(os.read(reading, size))
os.waitpid(child.pid, 0)
os.set_blocking(reading, False)
sys.stdout.write(os.read(reading, 100).decode())
"""


def test_a_forked_process_waits_for_the_reader_of_its_last_lines() -> None:
    words = [sys.executable, "-c", LAST_LINE]
    done = subprocess.run(words, capture_output=True, timeout=200, check=False, text=True)
    assert (done.returncode, done.stdout) == (0, "the last line\n"), done.stderr


PROGRAM = """
import json, sys, threading
from aoai_gateway.usage.lines import StdoutWriter, line_of
from aoai_gateway.whole_lines import WholeLines

def records():
    for n in range(300):
        StdoutWriter().write([line_of({"n": "r" * 900})] * 6)

def log():
    file = WholeLines(sys.stdout)
    for n in range(300):
        print("log " + "l" * 200, file=file)

threads = [threading.Thread(target=each) for each in (records, log)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_two_processes_share_a_pipe() -> None:
    both = f"{sys.executable} -c '{PROGRAM}' & {sys.executable} -c '{PROGRAM}'; wait"
    done = subprocess.run(["sh", "-c", both], stdout=subprocess.PIPE, timeout=200, check=True)
    found = done.stdout.decode().splitlines()
    assert len(found) == 2 * 300 * 7
    for line in found:
        assert line == "log " + "l" * 200 or json.loads(line) == {"n": "r" * 900}


FORK = """
import os, signal, sys
from aoai_gateway import whole_lines
signal.alarm(20)
whole_lines._writing.acquire()  # as by another thread
if not os.fork():
    whole_lines.write_lines(sys.stdout, "written\\n")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        stdout=subprocess.PIPE,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"written\n")
