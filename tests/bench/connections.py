"""What the first call of a client's connection waits for, where backends are a round trip away.

    .venv/bin/python tests/bench/connections.py [--round-trip 0.03] [--calls 60] [--rounds 3] [--callers 1 8]

The upstream speaks https and answers at once, behind a relay that delays it (`far.py`). Two gateways
(``serve``, with and without connections that are opened ahead) stand before it, on the first core. So many
callers at a time each send one call on a connection of its own and wait a moment. Printed is what such a call
takes more than a round trip, which a connection that is open needs, and the gateway's CPU time per call. In
``replayed`` calls, another endpoint of the same kind refuses the call before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHAT, HERE, KEY, cpu_seconds, free_port, process
from streams import certificate

CONFIG = """
aoai:
  endpoints:
    - name: first
      url: https://127.0.0.1:{first}/
      key: upstream-key
      connections: {{opened_ahead: {ahead}}}
      virtual_deployments:
        - name: replayed
          standins: [{{name: refuses}}]
    - name: second
      url: https://127.0.0.1:{second}/
      key: upstream-key
      connections: {{opened_ahead: {ahead}}}
      virtual_deployments:
        - name: gpt-4o
          standins: [{{name: gpt-4o}}]
        - name: replayed
          standins: [{{name: gpt-4o}}]
breaks: {{floor_seconds: 0.000001, ceiling_seconds: 0.000001, default_seconds: 0.000001}}
clients:
  - {{name: bench, key: {key}}}
"""

PAUSE = 0.1
"""Between two calls of one caller."""


async def call(port: int, message: bytes) -> float:
    """Send one call on a new connection. Gives the seconds until its answer is there."""
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    body = await reader.readexactly(size)
    assert b" 200 " in head[:16], head + body
    took = time.perf_counter() - begun
    writer.close()
    return took


async def callers(port: int, message: bytes, count: int, calls: int) -> list[float]:
    """Have so many callers send so many calls between them."""

    async def one(number: int) -> list[float]:
        await asyncio.sleep(PAUSE * number / count)
        took = []
        for _ in range(calls // count):
            took.append(await call(port, message))
            await asyncio.sleep(PAUSE)
        return took

    return [each for found in await asyncio.gather(*map(one, range(count))) for each in found]


async def measure(args: argparse.Namespace, folder: Path) -> None:
    """Start everything, go through the rounds, print."""
    up, first, second = free_port(), free_port(), free_port()
    ports = {"none ahead": free_port(), "opened ahead": free_port()}
    upstream = [sys.executable, HERE / "upstream.py", str(up), "--tls", certificate(folder)]
    far = [sys.executable, HERE / "far.py"]
    delay = ["--round-trip", str(args.round_trip)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(upstream, up, 1, folder / "up.log"))
        for port in (first, second):
            stack.enter_context(process([*far, str(port), str(up), *delay], port, 1, folder / f"{port}.log"))
        pids = {}
        for name, port in ports.items():
            config = folder / f"{name}.yaml"
            ahead = 0 if name == "none ahead" else args.ahead
            config.write_text(CONFIG.format(first=first, second=second, key=KEY, ahead=ahead))
            command = [
                BIN / "aoai-gateway", "serve", "--config", config, "--port", str(port),
                "--", "--ssl-insecure",
            ]  # fmt: skip
            pids[name] = stack.enter_context(process(command, port, 0, folder / f"{name}.log"))
        os.sched_setaffinity(0, {1})
        for model, trips in (("gpt-4o", 1), ("replayed", 2)):
            message = load.request("/openai/v1/chat/completions", {**CHAT, "model": model}, KEY)
            for count in args.callers:
                took: dict[str, list[float]] = {name: [] for name in ports}
                spent = dict.fromkeys(ports, 0.0)
                for _ in range(args.rounds):
                    for name, port in ports.items():
                        await call(port, message)
                        await asyncio.sleep(0.5)
                        before = cpu_seconds(pids[name])
                        took[name] += await callers(port, message, count, args.calls)
                        spent[name] += cpu_seconds(pids[name]) - before
                for name, times in took.items():
                    added = [each - trips * args.round_trip for each in times]
                    p50, p95 = (1000 * load.percentile(added, share) for share in (0.5, 0.95))
                    print(
                        f"{model:9} {count:3} callers  {name:13} +{p50:6.1f} ms p50  +{p95:6.1f} ms p95"
                        f"  {1000 * spent[name] / len(times):5.2f} ms CPU per call",
                        flush=True,
                    )


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--round-trip", type=float, default=0.03)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ahead", type=int, default=8, help="opened_ahead of the second gateway")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args, Path(folder)))


if __name__ == "__main__":
    main()
