"""What the first call of a client's connection waits for, where backends are a round trip away.

    .venv/bin/python tests/bench/connections.py [--round-trip 0.03] [--calls 40] [--rounds 3] [--callers 1 4]

The upstream speaks https and answers at once, behind a relay that delays it (`far.py`). Two gateways
(``serve``, with and without connections that are opened ahead) stand before it, on the first core. So many
callers at a time each send one call after the other, each on a connection of its own, or, to compare, all on
a connection that they keep. Printed is what a call takes more than a round trip, which it needs in any case,
and the gateway's CPU time per call. A ``replayed`` call is refused by another endpoint before; that is two
trips.
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

KEPT = "a kept connection"

CALL_SECONDS = 5.0
"""For one call; one that takes longer ends the run with an error."""


type Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int) -> Ends:
    """Connect to a gateway."""
    return await asyncio.open_connection("127.0.0.1", port)


async def call(ends: Ends, message: bytes) -> None:
    """Send one call, and read its answer."""
    reader, writer = ends
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    body = await reader.readexactly(size)
    assert b" 200 " in head[:16], head + body


async def callers(port: int, message: bytes, args: argparse.Namespace, count: int, kept: bool) -> list[float]:
    """Have so many callers send calls. Returns what each took in seconds."""

    async def one(number: int) -> list[float]:
        await asyncio.sleep(args.pause * number / count)
        took, ends = [], await connect(port)
        if kept:
            await call(ends, message)
        for _ in range(args.calls // count):
            begun = time.perf_counter()
            if not kept:
                ends[1].close()
                ends = await connect(port)
            await call(ends, message)
            took.append(time.perf_counter() - begun)
            await asyncio.sleep(args.pause)
        ends[1].close()
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
        runs = 2 * len(args.callers) * args.rounds * (1 + len(ports))
        seconds = runs * max(args.calls // count * args.pause + args.pause for count in args.callers)
        print(f"This takes up to {seconds / 60:.0f} minutes and the time of the calls.", flush=True)
        for model, trips in (("gpt-4o", 1), ("replayed", 2)):
            message = load.request("/openai/v1/chat/completions", {**CHAT, "model": model}, KEY)
            for count in args.callers:
                took: dict[str, list[float]] = {name: [] for name in (KEPT, *ports)}
                spent = dict.fromkeys(took, 0.0)
                for _ in range(args.rounds):
                    for name in took:
                        server = "none ahead" if name == KEPT else name
                        before = cpu_seconds(pids[server])
                        async with asyncio.timeout(args.calls * (args.pause + CALL_SECONDS)):
                            took[name] += await callers(ports[server], message, args, count, name == KEPT)
                        spent[name] += cpu_seconds(pids[server]) - before
                for name, times in took.items():
                    added = [each - trips * args.round_trip for each in times]
                    p50, p95 = (1000 * load.percentile(added, share) for share in (0.5, 0.95))
                    print(
                        f"{model:9} {count:3} callers  {name:18} +{p50:6.1f} ms p50  +{p95:6.1f} ms p95"
                        f"  {1000 * spent[name] / len(times):5.2f} ms CPU per call",
                        flush=True,
                    )


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--round-trip", type=float, default=0.03)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two calls of a caller")
    parser.add_argument("--ahead", type=int, default=8, help="opened_ahead of the second gateway")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args, Path(folder)))


if __name__ == "__main__":
    main()
