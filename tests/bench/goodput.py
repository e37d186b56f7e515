"""How much useful work a gateway gets out of scarce quota, and for whom.

    .venv/bin/python tests/bench/goodput.py [--seconds 120] [--seed 1] [--plain | --priorities] [--hang]

A standalone simulator enforces Azure's limits on two endpoints: `west` has 60k tokens per minute provisioned
and 60k pay as you go, `east` 120k pay as you go. All of them are exhausted when the run begins. Calls arrive
as they would from many independent users, whatever became of earlier ones, and ask for 180 % of the capacity;
critical ones for 40 % of it. Each has a deadline of 20 to 30 s, and a client that retries as the SDKs do.

The same calls go through the gateway twice: *plain* (endpoints in order, a break as long as the hint, no
classes, no queue: what PowerProxy does) and with the checkout's `policies/priorities.yaml`.

With `--hang` the load is 77 % instead, and in the middle of the run one endpoint (`--dead`; by default the
first in order) hangs for 20 s, calls in flight included, and then resets all connections for 10 s.

The offline bound is what a scheduler could serve at most that knew all calls beforehand and might split
them: every limit used as early as possible, by the call with the nearest deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from load import percentile
from proxy import BIN, CHECKOUT, free_port, process
from relay import Relay
from sdk_like import Ask, Outcome, call

CAPACITY = {("west", "ptu"): 60_000, ("west", "paygo"): 60_000, ("east", "paygo"): 120_000}
"""Tokens per minute of each deployment."""
PROVISIONED = ("west", "ptu")
TOKENS_PER_SECOND = sum(CAPACITY.values()) / 60

EXHAUSTED = {("west", "ptu"): 2.0, ("west", "paygo"): 5.0, ("east", "paygo"): 10.0}
"""Seconds from the start until each has recovered."""

SHARES = {"critical": 0.4, "standard": 0.7, "batch": 0.7}
"""What each class asks for, as a share of the capacity: 180 % in all."""
HANG_SHARES = {"critical": 0.3, "standard": 0.27, "batch": 0.2}
HANG_SECONDS = 20.0
RESET_SECONDS = 10.0

PROMPT_TOKENS = (300, 1500)
MAX_TOKENS = (100, 500)
NATURAL_LENGTH = 300
"""A completion has so many tokens, or max_tokens if that is less: callers reserve more than they use."""
FRAMING_TOKENS = 7
"""What a chat adds to its only message's text in the simulator's count."""
DEADLINES = (20.0, 30.0)
FIRST_TOKEN = 0.3
SPEED = 100.0

_TEXT = "the quick report shows that every table needs a clear short result before the next step begins "


@dataclass(frozen=True)
class Figures:
    """What one run gave."""

    outcomes: Sequence[Outcome]
    backend_refusals: int
    backend_answers: int
    sent_into_dead: int | None


def completion_tokens(ask: Ask) -> int:
    """What the simulator will answer to it."""
    return min(ask.max_tokens, NATURAL_LENGTH)


def cost(ask: Ask) -> int:
    """The tokens that it really uses."""
    return ask.prompt_tokens + FRAMING_TOKENS + completion_tokens(ask)


def unloaded_seconds(ask: Ask) -> float:
    """How long its answer takes when nobody is in the way."""
    return FIRST_TOKEN + (completion_tokens(ask) - 1) / SPEED


def arrivals(shares: Mapping[str, float], seconds: float, seed: int) -> list[Ask]:
    """All calls of a run, by time: each class at random, its tokens as near to its share as can be."""
    dice = random.Random(seed)
    asks: list[Ask] = []
    for cls, share in shares.items():
        left = share * TOKENS_PER_SECOND * seconds
        while left > 0:
            ask = Ask(
                number=len(asks),
                cls=cls,
                at=dice.uniform(0, seconds),
                deadline=dice.uniform(*DEADLINES),
                prompt_tokens=dice.randint(*PROMPT_TOKENS),
                max_tokens=dice.randint(*MAX_TOKENS),
                stream=dice.random() < 0.5,
            )
            asks.append(ask)
            left -= cost(ask)
    return sorted(asks, key=lambda ask: ask.at)


def body_of(ask: Ask) -> bytes:
    """The request's body; the simulator takes four bytes for a token."""
    size = 4 * ask.prompt_tokens
    text = (f"Call {ask.number}: " + _TEXT * (size // len(_TEXT) + 1))[:size]
    body: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": ask.max_tokens,
    }
    if ask.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def offline_bound(asks: Sequence[Ask], exhausted: Mapping[tuple[str, str], float]) -> float:
    """The most tokens that could be served in time (see the module's docstring)."""
    work = [(ask.at, ask.at + ask.deadline - unloaded_seconds(ask), cost(ask)) for ask in asks]
    return bound(work, exhausted)


def bound(work: Sequence[tuple[float, float, int]], exhausted: Mapping[tuple[str, str], float]) -> float:
    """The same for calls of which is known: when each comes, its latest start, and its tokens; by time.

    In steps of 50 ms.

    Serving early never costs anything: a window renews the sooner, a bucket drains the longer. A bucket may
    be overdrawn by one call, which is granted once.
    """
    step = 0.05
    waiting: list[tuple[float, float]] = []  # (latest start, tokens left)
    coming = list(reversed(work))
    level = CAPACITY[PROVISIONED] * (1 + exhausted.get(PROVISIONED, -60.0) / 60)
    used: dict[tuple[str, str], list[tuple[float, float]]] = {}
    served, now = float(max(tokens for *_, tokens in work)), 0.0
    while coming or waiting:
        while coming and coming[-1][0] <= now:
            _, latest, size = coming.pop()
            waiting.append((latest, float(size)))
        waiting = sorted(item for item in waiting if item[0] >= now)
        for name, tokens_per_minute in CAPACITY.items():
            if name == PROVISIONED:
                level = max(0.0, level - tokens_per_minute / 60 * step)
                room = max(0.0, tokens_per_minute - level)
            elif now < exhausted.get(name, 0.0):
                room = 0.0
            else:
                used[name] = [item for item in used.get(name, []) if item[0] > now - 60]
                room = tokens_per_minute - sum(tokens for _, tokens in used[name])
            taken = 0.0
            while waiting and room - taken > 1e-6:
                latest, tokens = waiting[0]
                part = min(tokens, room - taken)
                taken += part
                if part == tokens:
                    waiting.pop(0)
                else:
                    waiting[0] = (latest, tokens - part)
            served += taken
            if name == PROVISIONED:
                level += taken
            elif taken:
                used[name].append((now, taken))
        now += step
    return min(served, float(sum(tokens for *_, tokens in work)))


def simulator_spec() -> dict[str, Any]:
    """What the simulator is started with."""
    pace = {"model": "gpt-4o", "first_token_seconds": FIRST_TOKEN, "tokens_per_second": SPEED}
    spec: dict[str, Any] = {}
    for (endpoint, deployment), limit in CAPACITY.items():
        kind = "provisioned_tokens_per_minute" if deployment == "ptu" else "tokens_per_minute"
        spec.setdefault(endpoint, {"deployments": {}})["deployments"][deployment] = {**pace, kind: limit}
    return spec


def gateway_config(
    urls: Mapping[str, str], keys: Mapping[str, str], *, priorities: bool, declared: bool = True
) -> dict[str, Any]:
    """The gateway's configuration for one mode. ``declared``: it says the sizes of the deployments."""
    endpoints = []
    for name, url in urls.items():
        standins = []
        for (endpoint, deployment), limit in CAPACITY.items():
            if endpoint == name:
                standin: dict[str, Any] = {"name": deployment}
                if priorities and declared:
                    standin |= {"tokens_per_minute": limit, "provisioned": deployment == "ptu"}
                standins.append(standin)
        pool = [{"name": "gpt-4o", "model": "gpt-4o", "standins": standins}]
        endpoints.append({"name": name, "url": url, "key": keys[name], "virtual_deployments": pool})
    config: dict[str, Any] = {"admin": {"enabled": False}, "aoai": {"endpoints": endpoints}}
    clients: list[dict[str, Any]] = [{"name": cls, "key": f"key-of-{cls}"} for cls in SHARES]
    if priorities:
        config |= yaml.safe_load((CHECKOUT / "policies" / "priorities.yaml").read_text("utf-8"))
        clients = [{**client, "priority": client["name"]} for client in clients]
    else:
        config["breaks"] = {"default_seconds": 10, "floor_seconds": 0.001, "ceiling_seconds": 86400}
    return {**config, "clients": clients}


@contextmanager
def simulator(folder: Path) -> Iterator[dict[str, Any]]:
    """A simulator process on the second core; gives the line that it prints."""
    spec = folder / "simulator.json"
    spec.write_text(json.dumps(simulator_spec()))
    command = [BIN / "python", "-m", "aoai_simulator", "--spec", spec, "--burst-seconds", "0.25"]
    child = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    try:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())
    finally:
        child.terminate()
        child.wait(20)


def ask_simulator(url: str, body: Mapping[str, Any] | None = None) -> Any:
    """POST to the control plane, or GET without a body; used before and after a run only."""
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data)) as answer:
        return json.load(answer)


async def run(
    asks: Sequence[Ask],
    seconds: float,
    *,
    priorities: bool,
    dead: str | None = None,
    declared: bool = True,
    told: bool = True,
    body: Callable[[Ask], bytes] | None = None,
    completion_share: float | None = None,
    workers: int = 1,
) -> Figures:
    """Send all calls through a gateway of their own.

    ``dead`` is the endpoint that dies in between, if any; ``told``: clients say how long they wait; ``body``
    makes a request's body, if not `body_of`, and ``completion_share`` says how much of its max_tokens each
    answer takes then; ``workers``: the gateway's processes.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ready = stack.enter_context(simulator(folder))
        urls: dict[str, str] = dict(ready["urls"])
        relay: Relay | None = None
        if dead is not None:
            relay = Relay(urlsplit(urls[dead]).port or 80)
            urls[dead] = f"http://127.0.0.1:{await relay.start()}"
        config = folder / "gateway.yaml"
        document = gateway_config(urls, ready["keys"], priorities=priorities, declared=declared)
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        port = free_port()
        command: list[str | Path] = [BIN / "aoai-gateway", "serve", "--config", config, "--port", str(port)]
        if workers > 1:
            command += ["--workers", str(workers)]
        stack.enter_context(process(command, port, 0, folder / "gateway.log"))
        wait_until_ready(port)
        control = f"{ready['control_url']}/_simulator"
        length = {"completion_tokens": NATURAL_LENGTH}
        if completion_share is not None:
            length = {"completion_share": completion_share}
        ask_simulator(f"{control}/settings", length)
        for (endpoint, deployment), recovers in EXHAUSTED.items():
            full = {"endpoint": endpoint, "deployment": deployment, "set": "full", "seconds": recovers}
            ask_simulator(f"{control}/limits", full)
        trouble = asyncio.create_task(make_trouble(relay, seconds)) if relay is not None else None
        outcomes = await send_all(port, asks, body or body_of, told=told)
        log = ask_simulator(f"{control}/requests")
        if relay is not None and trouble is not None:
            await trouble
            await relay.stop()
        statuses = [entry["status"] for entry in log if entry["operation"] == "chat/completions"]
        return Figures(
            outcomes, statuses.count(429), statuses.count(200), relay.sent_into_it if relay else None
        )


def wait_until_ready(port: int, seconds: float = 90) -> None:
    """Wait for all workers: the supervisor has the port before them, and connections wait at each one's."""
    url, end = f"http://127.0.0.1:{port}/health/ready", time.monotonic() + seconds
    for _ in range(16):
        with urllib.request.urlopen(url, timeout=end - time.monotonic()):
            pass


async def send_all(
    port: int, asks: Sequence[Ask], body: Callable[[Ask], bytes], *, told: bool
) -> list[Outcome]:
    """Send each call at its time."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask in asks:
            await asyncio.sleep(max(0.0, begun + ask.at - time.perf_counter()))
            task = call(port, "/openai/v1/chat/completions", f"key-of-{ask.cls}", ask, body(ask), told=told)
            tasks.append(group.create_task(task))
    return [task.result() for task in tasks]


async def make_trouble(relay: Relay, seconds: float) -> None:
    """Let the endpoint hang and then reset, in the middle of the run."""
    await asyncio.sleep((seconds - HANG_SECONDS - RESET_SECONDS) / 2)
    relay.become("hanging")
    await asyncio.sleep(HANG_SECONDS)
    relay.become("resetting")
    await asyncio.sleep(RESET_SECONDS)
    relay.become("healthy")


def report(mode: str, figures: Figures, bound: float) -> int:
    """Print one run's figures; gives its useful tokens."""
    print(f"\n{mode}")
    print(
        f"  {'class':10} {'calls':>5} {'in time':>8} {'p50 s':>7} {'p95 s':>7} {'/unloaded':>10} {'429s':>5}"
    )
    for cls in SHARES:
        own = [item for item in figures.outcomes if item.ask.cls == cls]
        done = [item for item in own if item.tokens is not None]
        times = [item.seconds for item in done] or [float("nan")]
        p95 = percentile(times, 0.95)
        unloaded = percentile([unloaded_seconds(item.ask) for item in own], 0.95)
        print(
            f"  {cls:10} {len(own):5} {len(done) / len(own):8.1%} {statistics.median(times):7.2f} {p95:7.2f}"
            f" {p95 / unloaded:10.2f} {sum(item.refusals for item in own):5}"
        )
    useful = sum(item.tokens or 0 for item in figures.outcomes)
    print(f"  useful tokens {useful:,}: {useful / bound:.1%} of the offline bound")
    rate = figures.backend_refusals / max(1, figures.backend_answers)
    print(f"  backend 429s per answer {rate:.3f}")
    if figures.sent_into_dead is not None:
        print(f"  calls sent into the dead endpoint {figures.sent_into_dead}")
    return useful


async def measure(options: argparse.Namespace) -> None:
    """Run the modes with the same calls, one after the other."""
    os.sched_setaffinity(0, {1})
    shares = HANG_SHARES if options.hang else SHARES
    for seed in options.seed:
        asks = arrivals(shares, options.seconds, seed)
        asked = sum(map(cost, asks))
        bound = offline_bound(asks, EXHAUSTED)
        print(
            f"\nseed {seed}: {len(asks)} calls in {options.seconds:g} s ask for {asked:,} tokens,"
            f" {asked / options.seconds / TOKENS_PER_SECOND:.0%} of capacity; offline bound {bound:,.0f}"
        )
        useful: dict[str, int] = {}
        for mode in options.modes:
            figures = await run(
                asks,
                options.seconds,
                priorities=mode == "priorities",
                dead=options.dead if options.hang else None,
            )
            useful[mode] = report(mode, figures, bound)
        if len(useful) == 2:
            print(f"\n  useful tokens, priorities to plain: {useful['priorities'] / useful['plain']:.3f}")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long calls arrive")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one run for each")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plain", dest="modes", action="store_const", const=["plain"], help="only plain")
    which.add_argument(
        "--priorities", dest="modes", action="store_const", const=["priorities"], help="only with priorities"
    )
    parser.add_argument("--hang", action="store_true", help="77 %% load, and an endpoint dies for 30 s")
    parser.add_argument("--dead", choices=sorted({name for name, _ in CAPACITY}), default="west")
    parser.set_defaults(modes=["plain", "priorities"])
    options = parser.parse_args()
    if options.hang and options.seconds < 2 * (HANG_SECONDS + RESET_SECONDS):
        parser.error("--hang takes --seconds 60 at least")
    os.environ["PYTHONPATH"] = str(CHECKOUT / "addons")  # the processes run this checkout's code
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
