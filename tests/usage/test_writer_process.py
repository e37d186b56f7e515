"""A writer in a process of its own: what becomes of its batches, and of itself."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aoai_gateway import child_process
from aoai_gateway.config.models import Config
from aoai_gateway.usage import writer_child
from aoai_gateway.usage.lines import line_of
from aoai_gateway.usage.sink import LineSink, Record, SinkError
from aoai_gateway.usage.sinks import Sinks
from aoai_gateway.usage.writer_process import FRAME, Otlp, ProcessWriter
from tests.usage.receiver import Receiver
from tests.usage.records import record

needs_stop = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="it has no such signal")


def settings(receiver: Receiver, **values: Any) -> Otlp:
    return Otlp(**{"endpoint": receiver.url, "metrics": False, **values})


def config(receiver: Receiver) -> Config:
    endpoint = {"name": "a", "url": "https://a.example/", "key": "key-of-a"}
    sinks = {"otlp": {"endpoint": receiver.url, "metrics": False}}
    return Config.model_validate({"aoai": {"endpoints": [endpoint]}, "usage_sinks": sinks})


def lines(*names: str) -> list[bytes]:
    return [line_of(record(call=name)) for name in names]


def calls(receiver: Receiver) -> list[str]:
    """The calls whose spans came, in their order."""
    found = []
    for path, _, body in receiver.got:
        if path == "/v1/traces":
            (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
            for span in resource.scope_spans[0].spans:
                found += [a.value.string_value for a in span.attributes if a.key == "aoai_gateway.call"]
    return found


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give processes the time to end that they need where other tests run, too."""
    monkeypatch.setattr("aoai_gateway.usage.writer_process.END_SECONDS", 60.0)


@contextmanager
def writer(to: Otlp, **values: Any) -> Iterator[ProcessWriter]:
    made = ProcessWriter(to, **values)
    try:
        yield made
    finally:
        made.close()


def ends(pid: int) -> bool:
    """Whether a child of this process that was let go is gone, zombies aside."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_becomes_of_batches(receiver: Receiver) -> None:
    receiver.answers = [(200, {}), (200, {}), (400, {})]
    with writer(settings(receiver, key="collectors-key")) as made:
        assert made.write(lines("one", "two")) == 0
        assert made.write([line_of(record(call=None))]) is None, "that became no call, so it has no spans"
        assert made.write(lines("Büro \ud800")) == 0
        with pytest.raises(SinkError, match=r"^the collector did not take the traces: 400$"):
            made.write(lines("refused"))
        assert made.write(lines("three")) == 0
        pid = made.pid
    assert calls(receiver) == ["one", "two", "Büro ?", "refused", "three"]
    assert {names["authorization"] for _, names, _ in receiver.got} == {"Bearer collectors-key"}
    assert ends(pid)


@needs_stop
def test_a_process_that_ends_costs_the_batch_that_it_had_and_no_other(receiver: Receiver) -> None:
    with writer(settings(receiver)) as made:
        made.write(lines("one"))
        before = made.pid
        os.kill(before, signal.SIGKILL)
        wait_until(made._process.has_ended)
        assert made.write(lines("two")) == 0, "it was killed between batches"
        assert made.pid != before

        os.kill(made.pid, signal.SIGSTOP)
        made._patience = 0.05
        # More than a pipe holds, so that handing it over hangs, too.
        with pytest.raises(SinkError, match=r"^its process was ended by SIGKILL$"):
            made.write(lines(*map(str, range(200))))
        made._patience = 600.0
        assert made.write(lines("three")) == 0
    assert calls(receiver) == ["one", "two", "three"]


@needs_stop
def test_a_process_that_hangs_at_the_end_is_ended(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_gateway.usage.writer_process.END_SECONDS", 0.05)
    made = ProcessWriter(settings(receiver))
    made.write(lines("one"))
    os.kill(made.pid, signal.SIGSTOP)
    made.close()
    assert ends(made.pid)


def test_metrics_that_are_not_taken_are_told_between_batches(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [(400, {})] * 1000
    to = settings(receiver, traces=False, metrics=True, metrics_seconds=1)
    with caplog.at_level(logging.WARNING), writer(to) as made:
        assert made.write(lines("one")) is None
        wait_until(lambda: made.trouble() == "the collector did not take the metrics: 400")
        wait_until(lambda: "Those taken next hold all since the start" in caplog.text)
        receiver.answers = []
        wait_until(lambda: made.trouble() == "")
        wait_until(lambda: "Metrics are taken by the collector again." in caplog.text)
        receiver.got.clear()
    assert receiver.got, "the last ones are exported at the end"
    assert {each.name for each in caplog.records} == {"aoai_gateway.usage.otlp"}


def test_a_writer_that_cannot_be_made_is_tried_again_after_a_pause(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_gateway.usage.writer_process.COMMAND", ("false",))
    made = ProcessWriter(settings(receiver))
    wait_until(made._process.has_ended)
    first = made._process._process.stdin
    made.hurry()  # pauses are over at once
    for pause in (1.0, 2.0, 4.0):
        with pytest.raises(SinkError, match=r"^its process ended with exit code 1$"):
            made.write(lines("one"))
        wait_until(made._process.has_ended)
        assert made._pause == pause
    assert first is not None
    assert first.closed, "or the collector would send what it holds"


def test_what_waits_for_the_process_to_start_again_is_written_when_the_sink_is_closed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("aoai_gateway.usage.writer_process.COMMAND", ("false",))
        broken.setattr("aoai_gateway.usage.writer_process.LONGEST_PAUSE_SECONDS", 600.0)
        broken.setattr("aoai_gateway.usage.writer_process.FIRST_PAUSE_SECONDS", 600.0)
        made = ProcessWriter(settings(receiver))
        wait_until(made._process.has_ended)
        monkeypatch.setattr("aoai_gateway.usage.sinks._writer", lambda key: made)
        sinks = Sinks()
        sinks.adopt(config(receiver))
        (sink,) = sinks
        sinks.put([record(call="one")])
        wait_until(lambda: sink.dropped == 1)
        sinks.put([record(call="two")])
        wait_until(lambda: sink._since is not None)
    sink.close(60.0)
    assert (sink.written, sink.dropped) == (1, 1)
    assert calls(receiver) == ["two"]


SAYING = """
import sys, time
sys.stdin.buffer.read(4)  # settings come, or a batch
print(end={said!r}, flush=True)
{then}
"""
"""In the place of the process: says something, and then ends or stays."""


OUTLIVED = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.buffer.read()"])
print('{"trouble": "outlived"}', flush=True)
time.sleep(600)
"""


def saying(monkeypatch: pytest.MonkeyPatch, said: str, then: str = "") -> None:
    command = (sys.executable, "-c", SAYING.format(said=said, then=then))
    monkeypatch.setattr("aoai_gateway.usage.writer_process.COMMAND", command)


@pytest.mark.parametrize("said", ['{"lost": 0, "er', '{"log": ["a"]}\n', "[]\n", "7\n", '"\ud800\n'])
def test_a_line_that_cannot_be_read_does_not_hold_up_what_waits_for_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    saying(monkeypatch, said)
    with writer(settings(receiver)) as made, pytest.raises(SinkError, match=r"^its process ended with"):
        made.write(lines("one"))


class Exiting(logging.Handler):
    """What mitmproxy's handler does when its terminal is gone."""

    def emit(self, entry: logging.LogRecord) -> None:
        raise SystemExit(1)


class Raising(logging.Handler):
    def emit(self, entry: logging.LogRecord) -> None:
        raise OSError("no space")


@pytest.mark.parametrize("handler", [Exiting(), Raising()])
def test_a_log_that_cannot_be_written_costs_no_batch(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, handler: logging.Handler
) -> None:
    told = logging.getLogger("told")
    told.addHandler(handler)
    answer = '{"log": ["told", 40, "hello"]}\n{"lost": 3, "error": null}\n'
    saying(monkeypatch, answer, "sys.stdin.buffer.read()")
    try:
        with writer(settings(receiver)) as made:
            assert made.write(lines("one")) == 3
    finally:
        told.removeHandler(handler)


def test_a_batch_of_which_nothing_is_heard_is_given_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process has its output open, so it does not end when it is killed.
    saying(monkeypatch, "", OUTLIVED)
    monkeypatch.setattr("aoai_gateway.usage.writer_process.LAST_SECONDS", 0.05)
    with writer(settings(receiver), patience=0.05) as made:
        wait_until(lambda: made.trouble() == "outlived")
        with pytest.raises(SinkError, match=r"^its process was ended by SIGKILL$"):
            made.write(lines("one"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("module", ["aoai_gateway.usage.writer_child", "aoai_gateway.runtime.body_worker"])
def test_signals_for_the_gateway_are_not_for_processes_beside_it(module: str) -> None:
    started = subprocess.Popen(child_process.command_of(module), stdin=PIPE, stdout=PIPE)
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name)
            wait_until(partial(ignores, started.pid, number))
            os.kill(started.pid, number)
        started.communicate(timeout=200)
        assert started.returncode == 0
    finally:
        started.kill()
        started.communicate()


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_sink_of_this_kind_counts_as_any_other(receiver: Receiver) -> None:
    receiver.answers = [(400, {})]
    sink = LineSink("x", ProcessWriter(settings(receiver)), gather_seconds=0.0)
    sink.put(lines("one"))
    wait_until(lambda: sink.waiting == 0)
    sink.put(lines("two", "three"))
    sink.close(60)
    assert (sink.written, sink.dropped, sink.waiting) == (2, 1, 0)


# --- the process itself ---------------------------------------------------------------------------------


class Noting:
    """In the place of the writer."""

    def __init__(self, fails: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.closed, self._fails = False, fails

    def write(self, records: Sequence[Record]) -> int:
        if self._fails:
            raise ValueError("secret")
        self.batches.append([each["call"] for each in records])
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def _log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def served(writer: Noting, *messages: bytes, cut: int = 0) -> list[dict[str, Any]]:
    """What the process says of messages; ``cut``: bytes that the last one lacks."""
    packed = pickle.dumps(Otlp(endpoint="http://localhost:4318"))
    data = b"".join(FRAME.pack(len(each)) + each for each in (packed, *messages))
    said = io.BytesIO()
    writer_child.serve(io.BytesIO(data[: len(data) - cut]), said, lambda _: writer)
    return [json.loads(line) for line in said.getvalue().splitlines()]


@pytest.mark.usefixtures("_log_as_before")
def test_each_batch_is_answered_and_the_end_of_the_input_is_the_end() -> None:
    noting = Noting()
    said = served(noting, b"".join(lines("one", "two")), b"".join(lines("three")))
    assert noting.batches == [["one", "two"], ["three"]]
    assert said == [{"lost": 0, "error": None}] * 2
    assert noting.closed


@pytest.mark.usefixtures("_log_as_before")
def test_half_a_batch_is_none() -> None:
    noting = Noting()
    served(noting, b"".join(lines("one")), b"".join(lines("two")), cut=1)
    assert noting.batches == [["one"]]


@pytest.mark.usefixtures("_log_as_before")
def test_an_error_is_told_without_its_words() -> None:
    assert served(Noting(fails=True), b"".join(lines("one"))) == [{"lost": None, "error": "ValueError"}]
