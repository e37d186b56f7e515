"""What several threads and processes write to standard output, a line at a time."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from mitmproxy.addons.termlog import TermLogHandler

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
    print("one", 2, file=file)  # type: ignore[call-overload]
    print("three\nfour", file=file)  # type: ignore[call-overload]
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
