"""What usage records, Prometheus and OpenTelemetry cost a gateway: `serve` with all of them, beside none.

    .venv/bin/python tests/bench/usage.py [--seconds 60] [--processes 3] [--against CHECKOUT]

A gateway stands before an instant upstream and is under full load on the first core, as in ``proxy.py``;
upstream, load, collector, scraper and the process beside the gateway have the second one. Two processes
cannot be compared to better than some per cent, even of the same code: their memory is laid out otherwise. So
one process turns records and counting off and on itself, every 50 calls, in random order
(``usage_turns.py``), and the CPU time of its event loop's thread in each turn is compared within blocks of
four turns, a quarter of a second apart at most. The threads of its sinks have clocks of their own.

What is printed is the median of the blocks' differences and its 95 % interval (bootstrap). *Nothing, once
more* is the control: zero must lie within its interval, whose width is what can be told apart.

Below stand the clocks of the parts themselves: what the thread took while it counted and wrote down, in each
turn, and what the sinks' threads took after the turns, in a third of the time more with all of it. They do
not tell what the parts do to caches and to the garbage collector, which the differences contain. With a load
of 17 on two cores, the interval is 10 % of a call wide after 50 s, and the clocks repeat to 0.5 %. *Nothing*
is what a gateway does without records and Prometheus: it counts for the charts of its status page.

A scraper asks once a second. In the end the script checks that all that should be counted, written and
exported was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import signal
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHAT, CONFIG, HERE, KEY, cpu_seconds, free_port, process

SCRAPE_SECONDS = 1.0

WARM_UP_SECONDS = 3.0

GATHERING_SECONDS = 2.0
"""After which no record waits for others any more."""

SINKS = """
admin: {{port: {admin}}}
usage_sinks:
  jsonl: {{path: '{lines}', rotate_mb: 2000}}
  otlp: {{endpoint: 'http://127.0.0.1:{collector}', metrics_seconds: 1}}
"""

NOTHING, AGAIN, COUNTED, ALL = "nothing", "nothing, once more", "counted", "all of it"

TURNS = (NOTHING, AGAIN, COUNTED, ALL)
"""In each block, as `usage_turns` has them; that can be imported by mitmproxy alone."""

CALLS = 50
"""The calls of a turn."""


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


async def measure(seconds: float, folder: Path, tree: Path) -> dict[str, Any]:
    """Start everything, load the gateway for so long, and return what its turns told."""
    up, port, admin, collector = (free_port() for _ in range(4))
    call = load.request("/openai/v1/chat/completions", CHAT, KEY)
    lines, told, sizes = folder / "usage.jsonl", folder / "turns", list[int]()
    config = folder / "gateway.yaml"
    sinks = SINKS.format(admin=admin, lines=lines, collector=collector)
    config.write_text(CONFIG.format(port=up, key=KEY) + sinks)
    with contextlib.ExitStack() as stack:
        for script, number in (("upstream.py", up), ("collector.py", collector)):
            command = [sys.executable, HERE / script, str(number)]
            stack.enter_context(process(command, number, 1, folder / f"{script}.log"))
        serve = [
            BIN / "python",
            "-m",
            "aoai_gateway.app.cli",
            "serve",
            "--config",
            config,
            "--port",
            str(port),
        ]
        env = {"PYTHONPATH": str(tree / "addons"), "TURNS": str(told)}
        serve += ["-s", HERE / "usage_turns.py"]
        gateway = stack.enter_context(process(serve, port, 0, folder / "serve.log", env))
        beside = children(gateway)
        for pid in (0, *beside):
            os.sched_setaffinity(pid, {1})
        first = await load.run(port, call, connections=16, seconds=WARM_UP_SECONDS)
        os.kill(gateway, signal.SIGRTMIN)
        async with scraped(admin, sizes):
            done = await load.run(port, call, connections=16, seconds=seconds)
            os.kill(gateway, signal.SIGRTMIN + 1)
            await asyncio.sleep(GATHERING_SECONDS)
            found: dict[str, Any] = json.loads(told.read_text())
            threads, cpu = thread_seconds(gateway, found["threads"]), sum(map(cpu_seconds, beside))
            whole = await load.run(port, call, connections=16, seconds=seconds / 3)
            await asyncio.sleep(GATHERING_SECONDS)
        found["threads"] = {
            name: (seconds - threads[name]) / whole.answers
            for name, seconds in thread_seconds(gateway, found["threads"]).items()
        }
        found["beside"] = (sum(map(cpu_seconds, beside)) - cpu) / whole.answers
        counted = calls_counted(read_metrics(admin).decode())
    failures = [each.failures for each in (first, done, whole)]
    assert not any(failures), failures
    check(folder, found, first.answers + whole.answers, counted)
    print(f"{statistics.median(sizes):.0f} bytes a scrape, {len(sizes)} scrapes", file=sys.stderr)
    return found


def thread_seconds(pid: int, threads: dict[str, int]) -> dict[str, float]:
    """CPU time that threads have used, by their names (``/proc/PID/task/TID/schedstat``)."""
    return {
        name: int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
        for name, thread in threads.items()
    }


def calls_counted(metrics: str) -> int:
    """How many calls Prometheus is told of."""
    return sum(
        int(float(value)) for value in re.findall(r"(?m)^aoai_gateway_calls_total\{.*\} (\S+)$", metrics)
    )


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for about in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((about / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(about.name))
    return found


def check(folder: Path, found: dict[str, Any], before: int, counted: int) -> None:
    """See that nothing was left out: what is counted, a record for each call, and its spans."""
    with (folder / "usage.jsonl").open() as lines:
        written = sum(1 for _ in lines)
    calls = found["calls"]
    assert written == before + calls[ALL], f"{written} records of {before} + {calls[ALL]} calls"
    expected = before + calls[COUNTED] + calls[ALL]
    assert counted == expected, f"{counted} of {expected} calls are counted"
    took = json.loads((folder / "collector.py.log").read_text())
    assert took["/v1/traces"][1] > 100 * written, took
    assert took["/v1/metrics"][0] > 2, took
    log = (folder / "serve.log").read_text()
    assert "lost" not in log, log


def interval(values: Sequence[float]) -> str:
    """Write the median of values, and the interval in which it lies with a probability of 95 %."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(1000))
    return f"{statistics.median(values):+7.2f}  ({medians[25]:+.2f} to {medians[974]:+.2f})"


def show(runs: Sequence[dict[str, Any]]) -> None:
    """Print what was found in all runs."""
    turns = [
        dict(zip(TURNS, [1e6 * turn / CALLS for turn in block], strict=True))
        for run in runs
        for block in run["turns"]
    ]
    plain = [(block[NOTHING] + block[AGAIN]) / 2 for block in turns]
    base = statistics.median(plain)
    print(f"{len(turns)} blocks of turns; with nothing a call takes the event loop {base:.0f} µs\n")
    print("  CPU per call                      µs  (95 % interval)                  % of a call")
    for name, turn in ((AGAIN, AGAIN), ("counting for Prometheus", COUNTED), ("counting, and records", ALL)):
        reference = [block[NOTHING] for block in turns] if turn == AGAIN else plain
        more = [block[turn] - each for block, each in zip(turns, reference, strict=True)]
        shares = [100 * each / whole for each, whole in zip(more, plain, strict=True)]
        print(f"  {name:30}{interval(more):32}{interval(shares)}")
    print("\n  by the clocks of the parts")
    parts = clocks(runs)
    for name, each in parts.items():
        print(f"  {name:30}{each:+7.2f}{100 * each / base:+32.2f}")
    print(f"  {'together':30}{sum(parts.values()):+7.2f}{100 * sum(parts.values()) / base:+32.2f}")
    outside = statistics.median(run["beside"] for run in runs)
    print(f"  {'in the process beside it':30}{1e6 * outside:+7.2f}")


def clocks(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Microseconds of CPU time per call of each part in the gateway."""
    within = {turn: 1e6 * statistics.median(run["within"][turn] for run in runs) for turn in TURNS}
    nothing = (within[NOTHING] + within[AGAIN]) / 2
    parts = {"counting for Prometheus": within[COUNTED] - nothing, "records": within[ALL] - within[COUNTED]}
    for name, word in (("the file's thread", "jsonl"), ("OpenTelemetry's thread", "otlp")):
        took = [seconds for run in runs for thread, seconds in run["threads"].items() if word in thread]
        parts[name] = 1e6 * statistics.median(took)
    return parts


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=3, help="gateways, one after the other")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout first")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores.")
    everywhere = os.sched_getaffinity(0)
    print(f"Python {platform.python_version()}, {platform.machine()}, {args.processes} × {args.seconds} s")
    here = HERE.parents[1]
    for tree in [here] if args.against is None else [args.against.resolve(), here]:
        runs = []
        for _ in range(args.processes):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(asyncio.run(measure(args.seconds, Path(folder), tree)))
            os.sched_setaffinity(0, everywhere)
        print(f"\n{tree.name}")
        show(runs)


if __name__ == "__main__":
    main()
