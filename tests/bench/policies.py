"""What policies cost: the whole chain with counters in memory and in Redis, beside a client without limits.

    .venv/bin/python tests/bench/policies.py [--rounds 7] [--seconds 3]

Three ``aoai-gateway serve`` stand before the same instant upstream: one whose client has no limits, and two
whose client has all of them (deployments and endpoints allowed, request limits, a counted prompt, tokens and
requests per minute for the deployment and over all, tokens per day), with ``state: memory`` and with Redis on
loopback. Each gateway has the first core to itself; upstream, load and Redis share the second. Rounds go
through all of them in turn; what counts is the median of a round's figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, HERE, cpu_seconds, free_port, process, ratios

KEY = "bench-key"
PLAIN, MEMORY, REDIS = "no limits", "memory", "Redis on loopback"

ENDPOINTS = """
aoai:
  endpoints:
    - name: upstream
      url: http://127.0.0.1:{port}/
      key: upstream-key
      virtual_deployments:
        - name: gpt-4o
          model: gpt-4o
          standins: [{{name: gpt-4o}}]
clients:
  - name: bench
    key: {key}
"""
LIMITS = """
    deployments_allowed: [gpt-4o*]
    endpoints_allowed: [up*]
    request_limits: {max_tokens: {ceiling: 4000, default: 800}, n: 4, prompt_tokens: 100000, action: clamp}
    max_tokens_per_minute: {gpt-4o: 1000000000, total: 1000000000}
    max_requests_per_minute: {gpt-4o: 100000000, total: 100000000}
    max_tokens_per_day: 1000000000000
"""

PROMPT = "Say hello to the benchmark, and tell it how the weather is today in the capital of France. "
PROMPTS = {
    "a prompt of 20 tokens": PROMPT,
    "of 400 tokens": PROMPT * 20,
    "of 4,000 tokens (in a thread)": PROMPT * 200,
}


def message(prompt: str) -> bytes:
    """One call."""
    body = {"model": "gpt-4o", "max_tokens": 200, "messages": [{"role": "user", "content": prompt}]}
    return load.request("/openai/v1/chat/completions", body, KEY)


READY_SECONDS = 30.0


async def until_ready(name: str, port: int, call: bytes) -> None:
    """Wait until a gateway has its configuration; on a busy machine the port is open long before."""
    async with asyncio.timeout(READY_SECONDS):
        while (await load.run(port, call, connections=1, seconds=0.2)).failures:
            print(f"{name} is not ready yet", file=sys.stderr)


async def measure(rounds: int, seconds: float, folder: Path) -> None:
    """Start everything, go through the rounds, print."""
    up, redis = free_port(), free_port()
    ports = {PLAIN: free_port(), MEMORY: free_port(), REDIS: free_port()}
    plain = ENDPOINTS.format(port=up, key=KEY)
    limited = plain + LIMITS + f"budget_file: {folder / 'budgets.json'}\n"
    shared = plain + LIMITS + f"state: redis://127.0.0.1:{redis}/0\n"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process([sys.executable, HERE / "upstream.py", str(up)], up, 1, folder / "up.log")
        )
        server = ["redis-server", "--port", str(redis), "--save", "", "--appendonly", "no"]
        stack.enter_context(process(server, redis, 1, folder / "redis.log"))
        pids = {}
        for name, text in ((PLAIN, plain), (MEMORY, limited), (REDIS, shared)):
            config = folder / f"{name}.yaml"
            config.write_text(text)
            command = [BIN / "aoai-gateway", "serve", "--config", config, "--port", str(ports[name])]
            pids[name] = stack.enter_context(process(command, ports[name], 0, folder / f"{name}.log"))
        os.sched_setaffinity(0, {1})

        throughput: dict[str, list[float]] = {name: [] for name in ports}
        cpu: dict[str, list[float]] = {name: [] for name in ports}
        call = message(PROMPT)
        for name, port in ports.items():
            await until_ready(name, port, call)
        for _ in range(rounds):
            for name, port in ports.items():
                before = cpu_seconds(pids[name])
                done = await load.run(port, call, connections=16, seconds=seconds)
                assert not done.failures, f"{name}: {done.failures} failures"
                throughput[name].append(done.answers / done.seconds)
                cpu[name].append(1e6 * (cpu_seconds(pids[name]) - before) / done.answers)
        ratios("Requests per second (16 keep-alive connections)", throughput, PLAIN, "req/s")
        ratios("CPU per request", cpu, PLAIN, "µs")

        print("\nAdded time, one call at a time (ms, against the client without limits in the same round)")
        for label, prompt in PROMPTS.items():
            call = message(prompt)
            added: dict[str, list[tuple[float, float]]] = {MEMORY: [], REDIS: []}
            for _ in range(rounds):
                took = {}
                for name, port in ports.items():
                    done = await load.run(port, call, connections=1, seconds=seconds / 2)
                    assert not done.failures, f"{name}: {done.failures} failures"
                    took[name] = [load.percentile(done.whole, share) for share in (0.5, 0.99)]
                for name, each in added.items():
                    p50, p99 = (1000 * (a - b) for a, b in zip(took[name], took[PLAIN], strict=True))
                    each.append((p50, p99))
            for name, each in added.items():
                p50s, p99s = zip(*each, strict=True)
                print(
                    f"  {label:32} {name:18} p50 {statistics.median(p50s):+.2f}"
                    f"  p99 {statistics.median(p99s):+.2f} ({min(p99s):+.2f} to {max(p99s):+.2f})"
                )
        lost = (folder / f"{REDIS}.log").read_text().count("Shared state lost")
        if lost:
            sys.exit(f"Redis was lost {lost} times; the figures of Redis are partly those of memory.")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores.")
    if shutil.which("redis-server") is None:
        sys.exit("The benchmark needs redis-server.")
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {args.rounds} rounds of {args.seconds} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args.rounds, args.seconds, Path(folder)))


if __name__ == "__main__":
    main()
