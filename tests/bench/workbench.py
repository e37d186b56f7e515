"""What the workbench adds to calls: without a page, with a reader of the list, and with a page in Chromium.

    .venv/bin/python tests/bench/workbench.py [--rounds 3] [--seconds 5] [--rate 200] [--against CHECKOUT]

Two gateways (``aoai-gateway serve``, one of them with ``workbench: true``) have the first core to themselves;
an instant upstream, the load and the browser share the second, the browser with the least priority. Calls
come at a rate, whatever becomes of them. ``--against`` adds the two gateways of another checkout, without a
page. Rounds go through all states in turn, and through direct calls to
the upstream: what is added is the difference to those of the same round.
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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from playwright.async_api import async_playwright
from proxy import BIN, CHAT, CHECKOUT, CONFIG, HERE, KEY, cpu_seconds, free_port, process

PATH = "/openai/v1/chat/completions"
TOKEN = "token-of-the-benchmark"
CONNECTIONS = 64
WATCH = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((each) => each.duration)))
    .observe({ entryTypes: ["longtask"] });
}"""

type Round = tuple[load.Result, float]
"""What came of calls, and the CPU seconds that the gateway has used meanwhile."""

type Measure = Callable[[], Awaitable[Round]]


@dataclass
class Figures:
    """Of one state, a value for each round, in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of the gateway, for each call."""
    failures: int = 0

    def take(self, result: load.Result, cpu: float) -> None:
        """Add a round."""
        self.cpu.append(1000 * cpu / max(1, result.answers))
        self.p50.append(1000 * load.percentile(result.whole, 0.5))
        self.p99.append(1000 * load.percentile(result.whole, 0.99))
        self.failures += result.failures


@contextlib.asynccontextmanager
async def reader(admin: int) -> AsyncIterator[None]:
    """Follow the list as a page does, once it has all of it, and do nothing with it."""
    incoming, outgoing = await asyncio.open_connection("127.0.0.1", admin, limit=64 * 1024 * 1024)
    outgoing.write(
        f"GET /workbench/api/calls HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )

    await asyncio.wait_for(incoming.readuntil(b"event: ready"), 60)

    async def follow() -> None:
        while await incoming.read(65536):
            pass

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        outgoing.close()
        following.cancel()


@contextlib.asynccontextmanager
async def page(admin: int, folder: Path, tasks: list[float]) -> AsyncIterator[None]:
    """Open the page in Chromium; ``tasks`` gets for how long it was busy, in milliseconds, if over 50."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("There is no Chromium here.")
    nice = folder / "nice-chromium"
    nice.write_text(f'#!/bin/sh\nexec nice -n 19 {chromium} "$@"\n')
    nice.chmod(0o700)
    words = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(nice), args=words, timeout=60_000)
        try:
            tab = await browser.new_page()
            await tab.goto(f"http://127.0.0.1:{admin}/workbench?token={TOKEN}")
            await tab.wait_for_selector("body[data-ready=true]", timeout=60_000)
            await tab.evaluate(WATCH)
            yield
            tasks += await tab.evaluate("() => window.tasks")
        finally:
            await browser.close()


async def measure(rounds: int, seconds: float, rate: float, folder: Path, other: Path | None) -> None:
    """Start everything, go through the rounds, print."""
    up, plain, bench, admin = (free_port() for _ in range(4))
    config = CONFIG.format(port=up, key=KEY)
    gateways = {"plain": (plain, 0, CHECKOUT), "bench": (bench, admin, CHECKOUT)}
    if other is not None:
        gateways |= {
            "plain before": (free_port(), 0, other),
            "bench before": (free_port(), free_port(), other),
        }
    for name, (_, its_admin, _) in gateways.items():
        more = f"admin: {{port: {its_admin}, token: {TOKEN}}}\nworkbench: true"
        text = more if its_admin else "admin: {enabled: false}"
        (folder / f"{name}.yaml").write_text(f"{config}\n{text}\n")
    message, tasks = load.request(PATH, CHAT, KEY), list[float]()

    async def calls(port: int) -> Round:
        pid = pids.get(port)
        before = cpu_seconds(pid) if pid is not None else 0.0
        result = await load.run_paced(port, message, rate=rate, seconds=seconds, connections=CONNECTIONS)
        return result, cpu_seconds(pid) - before if pid is not None else 0.0

    async def with_reader() -> Round:
        async with reader(admin):
            return await calls(bench)

    async def with_page() -> Round:
        async with page(admin, folder, tasks):
            return await calls(bench)

    states: dict[str, Measure] = {
        "direct": lambda: calls(up),
        "serve": lambda: calls(plain),
        "workbench, no page": lambda: calls(bench),
        "workbench, one reader": with_reader,
        "workbench, one page in Chromium": with_page,
    }
    if other is not None:
        plain_before, bench_before = (gateways[f"{name} before"][0] for name in ("plain", "bench"))
        states |= {
            "before: serve": lambda: calls(plain_before),
            "before: workbench, no page": lambda: calls(bench_before),
        }
    pids = dict[int, int]()
    figures = {name: Figures() for name in states}
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process([sys.executable, HERE / "upstream.py", str(up)], up, 1, folder / "up.log")
        )
        for name, (port, _, tree) in gateways.items():
            serve = [BIN / "python", "-m", "aoai_gateway.app.cli", "serve"]
            words: list[str | Path] = [*serve, "--config", folder / f"{name}.yaml", "--port", str(port)]
            env = {"PYTHONPATH": str(tree / "addons")}
            pids[port] = stack.enter_context(process(words, port, 0, folder / f"{name}.log", env))
        os.sched_setaffinity(0, {1})
        started = {name: memory(pids[port]) for name, (port, _, _) in gateways.items()}
        for port, _, _ in gateways.values():
            await calls(port)  # to warm up
        for number in range(rounds):
            for name, state in states.items():
                figures[name].take(*await state())
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
        ended = {name: memory(pids[port]) for name, (port, _, _) in gateways.items()}
    tell(figures, tasks, rate)
    for name, first in started.items():
        print(f"  memory of {name}: {first:.0f} MB at its start, {ended[name]:.0f} MB in the end")


def memory(pid: int) -> float:
    """Megabytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tell(figures: dict[str, Figures], tasks: list[float], rate: float) -> None:
    """Print what came of it."""
    direct = figures.pop("direct")
    print(f"\nAdded to a call at {rate:.0f} calls/s, in ms: the median of the rounds (least to most)")
    for name, found in figures.items():
        row = []
        for share in ("p50", "p99"):
            pairs = zip(getattr(found, share), getattr(direct, share), strict=True)
            added = [own - base for own, base in pairs]
            row.append(f"{share} {statistics.median(added):6.2f} ({min(added):.2f} to {max(added):.2f})")
        row.append(f"gateway's CPU {statistics.median(found.cpu):.2f}")
        print(f"  {name:32} {'   '.join(row)}   failures {found.failures}")
    longest = f", the longest {max(tasks):.0f} ms" if tasks else ""
    print(f"  the page was busy for more than 50 ms {len(tasks)} times{longest}")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    args = parser.parse_args()
    busy = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {busy}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args.rounds, args.seconds, args.rate, Path(folder), args.against))


if __name__ == "__main__":
    main()
