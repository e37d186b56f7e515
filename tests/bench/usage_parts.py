"""What the parts of usage records, Prometheus and OpenTelemetry cost a call, each by itself, as CPU time.

    .venv/bin/python tests/bench/usage_parts.py

A part is done a hundred times in a row, out of warm caches, and the least of many rounds counts: that tells
which part has become dearer or cheaper. For what all of them cost a gateway, out of cold ones, see
``usage.py``.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aoai_gateway.engine.call import Call
from aoai_gateway.usage.lines import JsonLinesWriter, line_of
from aoai_gateway.usage.metrics import Metrics
from aoai_gateway.usage.otlp import OtlpWriter
from aoai_gateway.usage.record import usage_record
from aoai_gateway.usage.writer_child import records_of
from aoai_gateway.usage.writer_process import Otlp
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, world


def parts(folder: Path) -> None:
    """Say what a call costs in each part, by CPU time alone: the least of many rounds, in batches of 100."""
    usage = Usage(input_tokens=20, output_tokens=50, total_tokens=70)
    made = (world("a").script(a=Answer(usage=usage)).call() for _ in range(100))
    calls = [each.call for each in made]
    records = [usage_record(call) for call in calls]
    for number, record in enumerate(records):
        # What is another one in each call, and what is not there where no proxy has made it.
        ids = f"{number:032x}"
        record |= {"call": ids, "response_id": f"chatcmpl-{ids}", "backend_request_id": ids}
        record["attempts"][0]["request_id"] = ids
    metrics, lines = Metrics(), JsonLinesWriter(folder / "parts.jsonl", rotate_bytes=10**9, daily=True)
    collector = "http://127.0.0.1:1"
    spans = OtlpWriter(Otlp(collector, metrics=False), send=lambda *_: None)
    measures = OtlpWriter(Otlp(collector, traces=False), send=lambda *_: None)
    written = [line_of(record) for record in records]
    batch = b"".join(written)
    print("\nCPU per call of each part (µs)")
    for name, work in (
        ("counting for Prometheus", lambda: [metrics.finished(call) for call in calls]),
        ("making the record", lambda: [usage_record(call) for call in calls]),
        ("making a line of it", lambda: [line_of(record) for record in records]),
        ("writing the line to a file", lambda: lines.write(written)),
        ("beside: reading the line", lambda: records_of(batch)),
        ("beside: its spans", lambda: spans.write(records)),
        ("beside: its metrics", lambda: measures.write(records)),
    ):
        print(f"  {name:32} {1e6 * least(work) / len(calls):6.1f}")
    print("\nThe same between other work: for each call by itself, and for each of 32 (µs)")
    for name, step in (("counting for Prometheus", metrics.finished), ("making the record", usage_record)):
        alone, together = (between_other_work(step, calls, size) for size in (1, 32))
        print(f"  {name:32} {1e6 * alone:6.1f} {1e6 * together:6.1f}")


def between_other_work(step: Callable[[Call], object], calls: Sequence[Call], size: int) -> float:
    """The median of the seconds that a step takes for each of so many calls, out of cold caches."""
    memory, took = bytearray(512 * 1024), []
    for number in range(200):
        world("a").script(a=Answer()).call()
        ast.dump(ast.parse("def f(x):\n    return [y for y in x if y]\n"))
        memory[::64] = bytes(len(memory) // 64)
        some = [calls[(number * size + each) % len(calls)] for each in range(size)]
        begin = time.perf_counter()
        for call in some:
            step(call)
        took.append((time.perf_counter() - begin) / size)
    return statistics.median(took)


def least(work: Callable[[], object], rounds: int = 100) -> float:
    """The least CPU time of this thread that something took."""
    took = []
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        took.append(time.thread_time() - begin)
    return min(took)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        parts(Path(name))
