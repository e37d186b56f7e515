"""Many paced streams at once: what a chunk costs, and how late it comes.

    .venv/bin/python tests/bench/streams.py [--streams 100 300 500] [--seconds 8] [--rounds 3] [--tls]

The upstream sends each stream a chunk every 20 ms. Bare ``mitmdump`` (with an addon of three lines that makes
it stream) and ``aoai-gateway serve`` each have the first core to themselves; upstream and load share the
second. Printed are the CPU time per chunk, the share of chunks that came, and the gap between two chunks of a
stream (p99). With ``--tls`` the upstream speaks https, as Azure does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHAT, CLASSIC, CONFIG, HERE, KEY, cpu_seconds, free_port, process

PACE = 0.02


class Reader(asyncio.Protocol):
    """One client of one stream after the other, on one connection."""

    def __init__(self, message: bytes, gaps: list[float]) -> None:
        self.message, self.gaps = message, gaps
        self.events, self.last, self.failed = 0, 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self.message)

    def connection_lost(self, error: Exception | None) -> None:
        self.failed = True

    def data_received(self, data: bytes) -> None:
        count = data.count(b"\ndata: ") + data.startswith(b"data: ")
        if not count:
            return
        now = time.perf_counter()
        if self.last:
            self.gaps.append(now - self.last)
        self.last = now
        self.events += count
        if b"[DONE]" in data:
            self.last = 0.0
            self.transport.write(self.message)


async def run(port: int, streams: int, seconds: float) -> tuple[int, list[float], int]:
    """Read so many streams at once. Returns the events that came in the time, the gaps, and failures."""
    gaps: list[float] = []
    message = load.request(CLASSIC, {**CHAT, "stream": True}, KEY)
    readers = []
    loop = asyncio.get_running_loop()
    for number in range(streams):
        _, reader = await loop.create_connection(lambda: Reader(message, gaps), "127.0.0.1", port)
        readers.append(reader)
        if number % 10 == 9:
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.0)
    gaps.clear()
    before = sum(reader.events for reader in readers)
    await asyncio.sleep(seconds)
    events = sum(reader.events for reader in readers) - before
    failed = sum(reader.failed for reader in readers)
    for reader in readers:
        reader.transport.abort()
    return events, gaps, failed


async def measure(args: argparse.Namespace, folder: Path) -> None:
    """Start everything, go through the rounds, print."""
    up, bare, lean = free_port(), free_port(), free_port()
    scheme, more = "http", []
    if args.tls:
        scheme, more = "https", ["--tls", str(certificate(folder))]
    config = folder / "gateway.yaml"
    text = CONFIG.format(port=up, key=KEY).replace("http://127.0.0.1", f"{scheme}://127.0.0.1")
    config.write_text(text)
    commands: dict[str, list[str | Path]] = {
        "bare mitmdump": [
            BIN / "mitmdump", "-q", "--mode", f"reverse:{scheme}://127.0.0.1:{up}", "-p", str(bare),
            "--listen-host", "127.0.0.1", "-s", HERE / "stream_all.py", "--ssl-insecure",
        ],
        "serve": [
            BIN / "aoai-gateway", "serve", "--config", config, "--port", str(lean), "--", "--ssl-insecure",
        ],
    }  # fmt: skip
    ports = {"bare mitmdump": bare, "serve": lean}
    with contextlib.ExitStack() as stack:
        upstream = [
            sys.executable,
            HERE / "upstream.py",
            str(up),
            "--pace",
            str(PACE),
            "--chunks",
            "1500",
            *more,
        ]
        stack.enter_context(process(upstream, up, 1, folder / "up.log"))
        pids = {
            name: stack.enter_context(process(commands[name], ports[name], 0, folder / f"{name}.log"))
            for name in args.proxies
        }
        os.sched_setaffinity(0, {1})
        for streams in args.streams:
            due = streams * args.seconds / PACE
            figures: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in pids}
            for _ in range(args.rounds):
                for name, pid in pids.items():
                    before = cpu_seconds(pid)
                    events, gaps, failed = await run(ports[name], streams, args.seconds)
                    spent = cpu_seconds(pid) - before
                    gap = load.percentile(gaps, 0.99) if gaps else float("inf")
                    figures[name].append((1e6 * spent / max(1, events), events / due, gap, failed))
                    await asyncio.sleep(1)
            for name, rows in figures.items():
                cpu, came, gap = (statistics.median(column) for column in list(zip(*rows, strict=True))[:3])
                print(
                    f"{streams:5} streams  {name:14} {cpu:7.1f} µs CPU per chunk  {came:6.1%} of the chunks"
                    f"  p99 gap {1000 * gap:7.1f} ms  {sum(row[3] for row in rows)} failed",
                    flush=True,
                )


def certificate(folder: Path) -> Path:
    """Make a certificate for this host; gives the file with it and its key."""
    file = folder / "upstream.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", file,
         "-out", folder / "c.pem", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + (folder / "c.pem").read_bytes())
    return file


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 300, 500])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true", help="the upstream speaks https")
    parser.add_argument("--proxies", nargs="+", default=["bare mitmdump", "serve"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args, Path(folder)))


if __name__ == "__main__":
    main()
