"""mitmweb under a long day's traffic: does its memory stay flat?

    .venv/bin/python tests/bench/flows.py [--flows 50000] [--bound 500]

A gateway inside mitmweb stands before an instant upstream. So many calls go through it, each one flow, and at
every tenth of them its resident memory is printed, with the number of flows in its list. Exits with 1 if the
memory has grown by more than a tenth since the first of these steps.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHECKOUT, CONFIG, HERE, KEY, free_port, process

PASSWORD = "bench"
STEPS = 10
PROMPT = "What a long prompt this is, and how many of them there are. " * 100
GROWTH = 1.1


def memory(pid: int) -> float:
    """A process's resident memory, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def listed(port: int) -> int:
    """How many flows mitmweb's list has."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/flows", headers={"authorization": f"Bearer {PASSWORD}"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return len(json.load(answer))


async def measure(flows: int, bound: int, folder: Path) -> bool:
    """Send the calls, print the steps; whether the memory is flat."""
    up, port, web = free_port(), free_port(), free_port()
    config = folder / "gateway.yaml"
    config.write_text(CONFIG.format(port=up, key=KEY))
    command = [BIN / "mitmweb", "-q", "-s", CHECKOUT / "addons" / "gateway.py", "--listen-port", str(port)]
    for setting in (
        f"gateway_config={config}", f"gateway_keep_flows={bound}", "store_streamed_bodies=true",
        "web_open_browser=false", f"web_port={web}", f"web_password={PASSWORD}",
    ):  # fmt: skip
        command += ["--set", setting]
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}
    message = load.request("/openai/v1/chat/completions", body, KEY)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process([sys.executable, HERE / "upstream.py", str(up)], up, 1, folder / "up.log")
        )
        pid = stack.enter_context(process(command, port, 0, folder / "mitmweb.log"))
        os.sched_setaffinity(0, {1})
        print(f"\n{'flows':>8} {'in the list':>12} {'memory, MB':>11} {'flows/s':>8}")
        print(f"{0:>8} {listed(web):>12} {memory(pid):>11.1f}", flush=True)
        sizes, sent = [], 0
        for step in range(1, STEPS + 1):
            began, due = time.monotonic(), flows * step // STEPS
            before = sent
            while sent < due:
                done = await load.run(port, message, connections=8, seconds=min(5.0, (due - sent) / 200))
                assert not done.failures, f"{done.failures} failures"
                sent += done.answers
            rate = (sent - before) / (time.monotonic() - began)
            sizes.append(memory(pid))
            print(f"{sent:>8} {listed(web):>12} {sizes[-1]:>11.1f} {rate:>8.0f}", flush=True)
    print(f"\nthe last step's memory is {sizes[-1] / sizes[0]:.3f} of the first one's")
    return sizes[-1] < GROWTH * sizes[0]


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flows", type=int, default=50_000)
    parser.add_argument("--bound", type=int, default=500)
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores.")
    print(f"Python {platform.python_version()}, {platform.machine()}, {args.flows} flows, {args.bound} kept")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if asyncio.run(measure(args.flows, args.bound, Path(folder))) else 1)


if __name__ == "__main__":
    main()
