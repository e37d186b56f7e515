"""How many Python functions a call through ``serve`` calls: the same on every machine, however busy.

    .venv/bin/python tests/bench/calls.py [--against CHECKOUT] [--policies] [--redis] [--workbench] [--top 20]
    .venv/bin/python tests/bench/calls.py --layer [--against CHECKOUT] [--modules]

One client sends one call after the other on a connection that is kept, to a gateway before an instant
upstream; ``count_calls.py`` counts in the gateway's process. ``--policies``: the client has all limits of
``policies.py``; ``--redis``: it has them, with their counters in Redis on loopback; ``--workbench``: the
gateway has one, and no page is open. ``--against`` counts in another checkout, too; ``--top`` lists the
functions that are called most, ``--modules`` the modules of the gateway with theirs.

``--layer``: one call through the gateway's layer alone, without a process, its sockets and its periodic
looks; ``count_layer.py`` counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from proxy import BIN, CHAT, CHECKOUT, CLASSIC, CONFIG, HERE, KEY, free_port, process

import policies

CALLS = 200
WARM_UP = 50

OWNERS = (
    ("aoai_gateway", "the gateway"),
    ("/mitmproxy/", "mitmproxy"),
    ("/asyncio/", "asyncio"),
    ("/h11/", "h11"),
)


def owner_of(file: str) -> str:
    """Whose code a file holds."""
    return next((owner for part, owner in OWNERS if part in file), "others")


async def send(port: int, message: bytes, calls: int) -> None:
    """Send calls one after the other. A gateway that is still starting is asked again."""
    reader = writer = None
    while calls:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert reader is not None
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        if b" 200 " in head.partition(b"\r\n")[0]:
            calls -= 1
            continue
        writer.close()
        writer = None
        await asyncio.sleep(0.5)
    if writer is not None:
        writer.close()


async def count(
    tree: Path, folder: Path, *, with_policies: bool, with_workbench: bool, redis: int | None = None
) -> dict[tuple[str, str], float]:
    """Count the calls of each function, by its file and name, for one call through the gateway.

    ``redis``: the port of the server for the counters; None: they are in memory.
    """
    up, port, counts = free_port(), free_port(), folder / "counts"
    config = folder / "gateway.yaml"
    if with_policies:
        state = f"state: redis://127.0.0.1:{redis}/0\n" if redis is not None else ""
        config.write_text(policies.ENDPOINTS.format(port=up, key=KEY) + policies.LIMITS + state)
        message = policies.message(policies.PROMPT)
    else:
        config.write_text(CONFIG.format(port=up, key=KEY))
        message = load.request(CLASSIC, CHAT, KEY)
    if with_workbench:
        with config.open("a") as more:
            more.write(f"\nadmin: {{port: {free_port()}}}\nworkbench: true\n")
    serve = [BIN / "python", "-m", "aoai_gateway.app.cli", "serve", "--config", config, "--port", str(port)]
    env = {"PYTHONPATH": str(tree / "addons"), "COUNTS": str(counts)}
    with contextlib.ExitStack() as stack:
        upstream = [sys.executable, HERE / "upstream.py", str(up)]
        stack.enter_context(process(upstream, up, 1, folder / "up.log"))
        counting = [*serve, "-s", HERE / "count_calls.py"]
        gateway = stack.enter_context(process(counting, port, 0, folder / "serve.log", env))
        await send(port, message, WARM_UP)
        os.kill(gateway, signal.SIGRTMIN)
        await send(port, message, CALLS)
        os.kill(gateway, signal.SIGRTMIN + 1)
        for _ in range(200):
            if counts.exists():
                break
            await asyncio.sleep(0.05)
    found = json.loads(counts.read_text())
    counts.unlink()
    return {(file, name): number / CALLS for file, name, number in found}


def count_in_layer(tree: Path) -> dict[tuple[str, str], float]:
    """Count the calls of each function for one call through the layer of a checkout."""
    paths = os.pathsep.join((str(tree), str(tree / "addons"), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [BIN / "python", HERE / "count_layer.py"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return {(file, name): number for file, name, number in json.loads(done.stdout)}


def show_modules(found: dict[tuple[str, str], float]) -> None:
    """Print the modules of the gateway that a call enters, with their functions."""
    by_module: dict[str, list[str]] = {}
    for (file, name), number in found.items():
        _, ours, module = file.partition("/aoai_gateway/")
        if ours and number >= 1:
            by_module.setdefault(module, []).append(f"{name} ×{number:.0f}" if number > 1 else name)
    for module, names in sorted(by_module.items()):
        print(f"  {module}: {', '.join(names)}")


def show(title: str, found: dict[tuple[str, str], float], top: int) -> None:
    """Print the calls by whose functions they are, the modules of the gateway, and the most frequent ones."""
    by_owner: Counter[str] = Counter()
    for (file, _), number in found.items():
        by_owner[owner_of(file)] += number  # type: ignore[assignment]  # a share of a call is possible
    modules = {file for (file, _), number in found.items() if "aoai_gateway" in file and number >= 1}
    print(f"\n{title}: {sum(by_owner.values()):.0f} calls; {len(modules)} modules of the gateway")
    for owner, number in by_owner.most_common():
        print(f"  {number:8.1f}  {owner}")
    for (file, name), number in sorted(found.items(), key=lambda each: -each[1])[:top]:
        print(f"  {number:8.1f}  {'/'.join(Path(file).parts[-2:])} {name}")


async def main() -> None:
    """Parse the arguments and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--policies", action="store_true")
    parser.add_argument("--redis", action="store_true")
    parser.add_argument("--workbench", action="store_true")
    parser.add_argument("--layer", action="store_true")
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--top", type=int, default=0)
    args = parser.parse_args()
    trees = [CHECKOUT] if args.against is None else [args.against.resolve(), CHECKOUT]
    for tree in trees:
        if args.layer:
            show(tree.name, found := count_in_layer(tree), args.top)
            if args.modules:
                show_modules(found)
            continue
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            folder, redis = Path(name), None
            if args.redis:
                redis = free_port()
                server = ["redis-server", "--port", str(redis), "--save", "", "--appendonly", "no"]
                stack.enter_context(process(server, redis, 1, folder / "redis.log"))
            policies_on, workbench = args.policies or args.redis, args.workbench
            found = await count(
                tree, folder, with_policies=policies_on, with_workbench=workbench, redis=redis
            )
        show(tree.name, found, args.top)
        if args.modules:
            show_modules(found)


if __name__ == "__main__":
    asyncio.run(main())
