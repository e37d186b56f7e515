"""What the gateway costs, beside bare mitmdump, in one run.

    .venv/bin/python tests/bench/proxy.py [--rounds 5] [--seconds 4] [--against CHECKOUT]

Three proxies stand before the same instant upstream: bare ``mitmdump`` as a reverse proxy (with an addon of
three lines that makes it stream), ``mitmdump -s addons/gateway.py`` and ``aoai-gateway serve``. Each has the
first core to itself, upstream and load share the second. Rounds go through all of them in turn, and what
counts is the median of a round's ratios, since machines drift.

``--against`` adds the ``serve`` of another checkout, such as a ``git worktree`` of the commit before, with
the same packages of others. On a busy machine these two compare where the figures of two runs do not; with
``--only-serve`` they alone take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
BIN = Path(sys.executable).parent
KEY = "bench-key"

CONFIG = """
aoai:
  endpoints:
    - name: upstream
      url: http://127.0.0.1:{port}/
      key: upstream-key
      virtual_deployments:
        - name: gpt-4o
          standins: [{{name: gpt-4o}}]
        - name: replayed
          standins: [{{name: refuses}}, {{name: gpt-4o}}]
        - name: refused
          standins: [{{name: refuses}}]
breaks: {{floor_seconds: 0.000001, ceiling_seconds: 0.000001, default_seconds: 0.000001}}
clients:
  - {{name: bench, key: {key}}}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello to the benchmark. " * 10}]}
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(
    command: Sequence[str | Path], port: int, core: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a process on one core until the port answers, and end it afterwards. ``env``: beside this one's."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(env or {})},
            stdout=out,
            stderr=out,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline or child.poll() is not None:
                sys.exit(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        time.sleep(1.5)  # mitmdump restarts its listener once
        yield child.pid
    finally:
        child.terminate()
        child.wait(20)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in all of its threads (clock_getcpuclockid(3), as Linux has it)."""
    return time.clock_gettime(~pid << 3 | 2)


def ratios(name: str, figures: dict[str, list[float]], base: str, unit: str) -> None:
    """Print a figure of each proxy, and its ratio to the first one's, round by round."""
    print(f"\n{name}")
    for who, values in figures.items():
        relative = [value / reference for value, reference in zip(values, figures[base], strict=True)]
        print(
            f"  {who:28} {statistics.median(values):10.2f} {unit:10}"
            f"  ratio {statistics.median(relative):5.2f}  ({min(relative):.2f}-{max(relative):.2f})"
        )


BARE, SCRIPT, SERVE = "bare mitmdump", "mitmdump -s gateway.py", "serve"


def commands_of(ports: Mapping[str, int], up: int, config: Path) -> dict[str, list[str | Path]]:
    """The command line of each proxy."""
    listen: tuple[str | Path, ...] = ("--listen-host", "127.0.0.1", "-p")
    found: dict[str, list[str | Path]] = {}
    for name, port in ports.items():
        if name == BARE:
            mode = f"reverse:http://127.0.0.1:{up}"
            words = [BIN / "mitmdump", "-q", "--mode", mode, "-s", HERE / "stream_all.py", *listen]
        elif name == SCRIPT:
            script = CHECKOUT / "addons" / "gateway.py"
            words = [BIN / "mitmdump", "-q", "-s", script, "--set", f"gateway_config={config}", *listen]
        else:
            words = [BIN / "python", "-m", "aoai_gateway.app.cli", "serve", "--config", config, "--port"]
        found[name] = [*words, str(port)]
    return found


async def measure(
    rounds: int, seconds: float, folder: Path, only_throughput: bool, trees: Mapping[str, Path]
) -> None:
    """Start everything, go through the rounds, print. ``trees``: the checkout of each proxy, by its name."""
    up = free_port()
    ports = {name: free_port() for name in trees}
    base = next(iter(ports))
    config = folder / "gateway.yaml"
    config.write_text(CONFIG.format(port=up, key=KEY))
    commands = commands_of(ports, up, config)
    plain = load.request(CLASSIC, CHAT, KEY)
    v1 = load.request("/openai/v1/chat/completions", CHAT, KEY)
    stream = load.request(CLASSIC, {**CHAT, "stream": True}, KEY)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process([sys.executable, HERE / "upstream.py", str(up)], up, 1, folder / "up.log")
        )
        pids = {
            name: stack.enter_context(
                process(
                    command,
                    ports[name],
                    0,
                    folder / f"{number}.log",
                    {"PYTHONPATH": str(trees[name] / "addons")},
                )
            )
            for number, (name, command) in enumerate(commands.items())
        }
        os.sched_setaffinity(0, {1})
        throughput: dict[str, list[float]] = {name: [] for name in ports}
        chunks: dict[str, list[float]] = {name: [] for name in ports}
        call_cpu: dict[str, list[float]] = {name: [] for name in ports}
        chunk_cpu: dict[str, list[float]] = {name: [] for name in ports}
        for number in range(rounds):
            for name, port in ports.items():
                before = cpu_seconds(pids[name])
                done = await load.run(port, plain, connections=16, seconds=seconds)
                assert not done.failures, f"{name}: {done.failures} failures"
                throughput[name].append(done.answers / done.seconds)
                call_cpu[name].append(1e6 * (cpu_seconds(pids[name]) - before) / done.answers)
            for name, port in ports.items():
                before = cpu_seconds(pids[name])
                done = await load.run(port, stream, connections=100, seconds=seconds)
                assert not done.failures, f"{name}: {done.failures} failures"
                chunks[name].append(done.events / done.seconds)
                chunk_cpu[name].append(1e6 * (cpu_seconds(pids[name]) - before) / done.events)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
        ratios("Requests per second (16 keep-alive connections)", throughput, base, "req/s")
        ratios("CPU per request", call_cpu, base, "µs")
        ratios("SSE chunks per second (100 concurrent streams)", chunks, base, "chunks/s")
        ratios("CPU per SSE chunk", chunk_cpu, base, "µs")

        if only_throughput:
            return
        print("\nAdded time, one call at a time (ms, against direct calls in the same rounds)")
        everyone = {"direct": up, **ports}
        for label, message in (("not streaming", plain), ("not streaming, v1", v1), ("streaming", stream)):
            first: dict[str, list[float]] = {name: [] for name in everyone}
            for _ in range(rounds):
                for name, port in everyone.items():
                    calls = await load.run(port, message, connections=1, seconds=min(seconds, 3))
                    first[name] += calls.first
            base50, base99 = (load.percentile(first["direct"], share) for share in (0.5, 0.99))
            for name in ports:
                p50, p99 = (load.percentile(first[name], share) for share in (0.5, 0.99))
                print(
                    f"  first byte, {label:18} {name:24}"
                    f" p50 +{1000 * (p50 - base50):.2f}  p99 +{1000 * (p99 - base99):.2f}"
                )

        print("\nReplay after a 429 (ms, one call at a time)")
        replayed = load.request("/openai/v1/chat/completions", {**CHAT, "model": "replayed"}, KEY)
        for name in ports:
            if name == BARE:
                continue
            once, twice = [], []
            for _ in range(rounds):
                once += (await load.run(ports[name], v1, connections=1, seconds=min(seconds, 2))).whole
                twice += (await load.run(ports[name], replayed, connections=1, seconds=min(seconds, 2))).whole
            direct = (await load.run(up, v1, connections=1, seconds=1)).whole
            added = statistics.median(twice) - statistics.median(once)
            own = added - statistics.median(direct)
            print(
                f"  {name:24} a call with one replay takes +{1000 * added:.2f} p50; the failed attempt"
                f" itself takes {1000 * statistics.median(direct):.2f}, the replay {1000 * own:.2f}"
            )


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only-throughput", action="store_true", help="leave out the latencies")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure the serve of this one, too")
    parser.add_argument("--only-serve", action="store_true", help="leave out mitmdump")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores.")
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {args.rounds} rounds of {args.seconds} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        trees = {} if args.only_serve else {BARE: CHECKOUT, SCRIPT: CHECKOUT}
        if args.against is not None:
            trees[f"serve in {args.against.name}"] = args.against.resolve()
        trees[SERVE] = CHECKOUT
        asyncio.run(measure(args.rounds, args.seconds, Path(folder), args.only_throughput, trees))


if __name__ == "__main__":
    main()
