"""What usage records, Prometheus and OpenTelemetry cost: `serve` with each of them and with all, beside none.

    .venv/bin/python tests/bench/usage.py [--rounds 15] [--seconds 3]

Six gateways stand before the same instant upstream, as in ``proxy.py``: each has the first core to itself
while it is asked; upstream, load, collector and scraper share the second, and so do the processes beside the
gateways, whose CPU is told by itself and with the gateway's. *Nothing* does not even count for Prometheus
(``uncounted.py``), which every other one does, whether it is scraped or not. Scrapes come once a second,
spans go to a collector as they come, and metrics every second. Rounds go through all gateways in turn; what
counts is the median of a round's ratios. In the end the script checks that each has written what it should
have. The parts' CPU times, which it prints first, say more on a machine that is busy.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHAT, CONFIG, HERE, KEY, cpu_seconds, free_port, process, ratios

from aoai_gateway.engine.call import Call
from aoai_gateway.usage.elsewhere import Otlp
from aoai_gateway.usage.lines import JsonLinesWriter, line_of
from aoai_gateway.usage.metrics import Metrics
from aoai_gateway.usage.otlp import OtlpWriter
from aoai_gateway.usage.record import usage_record
from aoai_gateway.usage.writer_child import records_of
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, world

NOTHING, COUNTED, RECORDS, SCRAPED, OTLP, ALL = (
    "nothing",
    "counted, not scraped",
    "records (JSON lines)",
    "Prometheus, each second",
    "OpenTelemetry",
    "all of them",
)
SCRAPE_SECONDS = 1.0


def settings(name: str, folder: Path, up: int, admin: int, collector: int) -> str:
    """The configuration of one of the gateways."""
    sinks = []
    if name in (RECORDS, ALL):
        sinks.append(f"  jsonl: {{path: '{folder / name}.jsonl', rotate_mb: 2000}}")
    if name in (OTLP, ALL):
        sinks.append(f"  otlp: {{endpoint: 'http://127.0.0.1:{collector}', metrics_seconds: 1}}")
    lines = [CONFIG.format(port=up, key=KEY), f"admin: {{port: {admin}}}"]
    return "\n".join(lines + (["usage_sinks:", *sinks] if sinks else []))


@contextlib.asynccontextmanager
async def scraped(port: int, sizes: list[int]) -> AsyncIterator[None]:
    """Ask for metrics once a second meanwhile, as Prometheus would."""

    async def scrape() -> None:
        while True:
            sizes.append(len(await asyncio.to_thread(read_metrics, port)))
            await asyncio.sleep(SCRAPE_SECONDS)

    task = asyncio.create_task(scrape())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def read_metrics(port: int) -> bytes:
    """Scrape once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found: bytes = answer.read()
    return found


async def measure(rounds: int, seconds: float, folder: Path) -> None:
    """Start everything, go through the rounds, print."""
    up, collector = free_port(), free_port()
    names = (NOTHING, COUNTED, RECORDS, SCRAPED, OTLP, ALL)
    ports, admin = ({name: free_port() for name in names} for _ in range(2))
    answers = dict.fromkeys(names, 0)
    sizes: list[int] = []
    call = load.request("/openai/v1/chat/completions", CHAT, KEY)
    with contextlib.ExitStack() as stack:
        for script, port in (("upstream.py", up), ("collector.py", collector)):
            command = [sys.executable, HERE / script, str(port)]
            stack.enter_context(process(command, port, 1, folder / f"{script}.log"))
        pids = {}
        for name in names:
            config = folder / f"{name}.yaml"
            config.write_text(settings(name, folder, up, admin[name], collector))
            command = [BIN / "aoai-gateway", "serve", "--config", config, "--port", str(ports[name])]
            command += ["-s", HERE / "uncounted.py"] if name == NOTHING else []
            pids[name] = stack.enter_context(process(command, ports[name], 0, folder / f"{name}.log"))
        os.sched_setaffinity(0, {1})
        beside = {name: children(pid) for name, pid in pids.items()}
        for pid in itertools.chain(*beside.values()):
            os.sched_setaffinity(pid, {1})

        throughput: dict[str, list[float]] = {name: [] for name in names}
        cpu: dict[str, list[float]] = {name: [] for name in names}
        together: dict[str, list[float]] = {name: [] for name in names}
        p99: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name, port in ports.items():
                before, before_beside = cpu_seconds(pids[name]), sum(map(cpu_seconds, beside[name]))
                async with contextlib.AsyncExitStack() as around:
                    if name in (SCRAPED, ALL):
                        await around.enter_async_context(scraped(admin[name], sizes))
                    done = await load.run(port, call, connections=16, seconds=seconds)
                assert not done.failures, f"{name}: {done.failures} failures"
                answers[name] += done.answers
                if number:  # the first round warms up
                    throughput[name].append(done.answers / done.seconds)
                    took = cpu_seconds(pids[name]) - before
                    cpu[name].append(1e6 * took / done.answers)
                    took += sum(map(cpu_seconds, beside[name])) - before_beside
                    together[name].append(1e6 * took / done.answers)
                    p99[name].append(1e3 * load.percentile(done.whole, 0.99))
            print(f"round {number} of {rounds} done", file=sys.stderr)
    ratios("CPU per request, of the gateway", cpu, NOTHING, "µs")
    ratios("CPU per request, with the process beside it", together, NOTHING, "µs")
    ratios("Requests per second (16 keep-alive connections)", throughput, NOTHING, "req/s")
    ratios("99th percentile of an answer's time", p99, NOTHING, "ms")
    print(f"\n{statistics.median(sizes):.0f} bytes a scrape")
    check(folder, answers)


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for about in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((about / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(about.name))
    return found


def check(folder: Path, answers: dict[str, int]) -> None:
    """See that nothing was left out: a record for each call, and each call's spans at the collector."""
    for name in (RECORDS, ALL):
        with (folder / f"{name}.jsonl").open() as lines:
            written = sum(1 for _ in lines)
        assert written == answers[name], f"{name}: {written} records of {answers[name]} calls"
    took = json.loads((folder / "collector.py.log").read_text())
    spans, count = took["/v1/traces"], answers[OTLP] + answers[ALL]
    print(f"{spans[0]} exports of spans, {spans[1] / count:.0f} bytes for each of {count} calls")
    assert spans[1] > 100 * count, took
    assert took["/v1/metrics"][0] > 2, took
    for name in answers:
        log = (folder / f"{name}.log").read_text()
        assert "lost" not in log, log


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


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores.")
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {args.rounds} rounds of {args.seconds} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        parts(Path(folder))
        asyncio.run(measure(args.rounds, args.seconds, Path(folder)))


if __name__ == "__main__":
    main()
