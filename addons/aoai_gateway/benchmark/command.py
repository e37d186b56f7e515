"""``aoai-gateway benchmark URL``: a load of a given shape and rate, and its answers measured."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from aoai_gateway.analysis.reading import Reading, RecordsError, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.benchmark import plan
from aoai_gateway.benchmark.calling import Caller, Target
from aoai_gateway.benchmark.options import parser
from aoai_gateway.benchmark.running import Run
from aoai_gateway.benchmark.showing import Progress, summary
from aoai_gateway.tokens import Counter, load_encodings
from aoai_gateway.usage.files import append
from aoai_gateway.usage.lines import JsonLinesWriter, line_of
from aoai_gateway.usage.sink import LineSink

if sys.platform != "win32":
    import resource

OTHER_FILES = 64
"""Descriptors that are not connections: files, libraries, the event loop's own."""

ONLY = "benchmark"
"""The consumer's name, if none is given."""


class BenchmarkError(Exception):
    """It cannot be run so; the text says why."""


def main(words: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Run one command line."""
    args = parser().parse_args(words)
    try:
        consumers = _consumers(args, env)
        drawn = _drawn(args.records)
        room = _make_room(args.clients)
        _look_at_output(args.output)
        if room < args.clients:
            raise BenchmarkError(
                f"this machine allows {room:,} connections at a time: `ulimit -n`, or --clients {room}"
            )
    except (BenchmarkError, RecordsError) as error:
        print(f"aoai-gateway: {error}", file=sys.stderr)
        return 1
    made, dropped = asyncio.run(_run(args, consumers, drawn))
    print(json.dumps({"summary": made}) if args.output_format == "jsonl" else summary(made), end="")
    if args.output_format == "jsonl":
        print()
    if dropped:
        print(f"aoai-gateway: {dropped:,} records could not be written", file=sys.stderr)
    return 1 if dropped or made["ended_early"] or not made["completed"] else 0


async def _run(
    args: argparse.Namespace, consumers: list[plan.Consumer], drawn: list[plan.Drawn]
) -> tuple[dict[str, Any], int]:
    counter = Counter(await asyncio.to_thread(load_encodings))
    random = Random(args.seed)  # noqa: S311 - sizes and times of test calls are no secrets
    target = Target(args.url, args.deployment, args.api_version, args.bearer, args.ca)
    shapes = _shapes(args, drawn)
    steps, calls = _plan(args, consumers, drawn, shapes, random)
    prompts = plan.Prompts(
        counter,
        args.deployment,
        random,
        members=_members(args),
        usage=target.gives_usage,
        cached=args.cached_prompts,
    )
    sink = LineSink(str(args.output), JsonLinesWriter(args.output)) if args.output is not None else None
    async with target.session() as session:
        begun = time.monotonic()
        how = {"clients": args.clients, "retries": args.retry == "exponential", "timeout": args.timeout}
        caller = Caller(target, session, prompts, counter, random, begun=begun, **how)
        run = Run(
            calls,
            steps,
            caller,
            consumers={each.name for each in consumers},
            of_one_shape=len(set(shapes)) == 1,
            begun=begun,
            clock=time.monotonic,
            write=lambda record: sink.put([line_of(record)]) if sink is not None else None,
            window_seconds=args.aggregation_window,
            most=args.requests,
        )
        await _watched(run, Progress(run, args.output_format))
    if sink is not None:
        await asyncio.to_thread(sink.close)
    return run.document(), sink.dropped if sink is not None else 0


async def _watched(run: Run, progress: Progress) -> None:
    """Run it, and show each second how it stands. Ctrl-C stops the sending, a second one all of it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not on Windows, where Ctrl-C ends it at once.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, run.stop)
    running = asyncio.create_task(run.run())
    while not running.done():
        await asyncio.wait({running}, timeout=1.0)
        if not running.done():
            progress.show()
    progress.clear()
    await running


def _plan(
    args: argparse.Namespace,
    consumers: list[plan.Consumer],
    drawn: list[plan.Drawn],
    shapes: list[plan.Shape],
    random: Random,
) -> tuple[list[plan.Step], Any]:
    if drawn and args.rate is None:
        step = plan.length(drawn, args.speed)
        seconds = min(step.seconds, args.duration or math.inf)
        calls = (p for p in plan.replayed(drawn, consumers, random, speed=args.speed) if p.at < seconds)
        return [replace(step, seconds=seconds)], calls
    steps = [plan.Step(rate, args.duration or math.inf) for rate in args.rate]
    return steps, plan.planned(steps, shapes, consumers, random, arrivals=args.arrivals)


def _shapes(args: argparse.Namespace, drawn: list[plan.Drawn]) -> list[plan.Shape]:
    shapes = [each.shape for each in drawn] or [_shape(args)]
    return [replace(shape, stream=False) for shape in shapes] if args.no_stream else shapes


def _shape(args: argparse.Namespace) -> plan.Shape:
    if args.shape_profile == "custom":
        return plan.Shape(args.context_tokens, args.max_tokens)
    return plan.PROFILES[args.shape_profile]


def _members(args: argparse.Namespace) -> dict[str, Any]:
    found = {
        "n": args.completions if args.completions > 1 else None,
        "frequency_penalty": args.frequency_penalty,
        "presence_penalty": args.presence_penalty,
        "temperature": args.temperature,
        "top_p": args.top_p,
    }
    return {name: value for name, value in found.items() if value is not None}


def _drawn(files: list[Path]) -> list[plan.Drawn]:
    if not files:
        return []
    reading = Reading()
    found = plan.drawn_from(read(files, Selection(), reading))
    if not reading.read:
        raise BenchmarkError(reading.why_nothing())
    if not found:
        raise BenchmarkError("the records have no call of a chat that tells its tokens")
    return found


def _consumers(args: argparse.Namespace, env: Mapping[str, str]) -> list[plan.Consumer]:
    asked: list[Callable[[Callable[[str], str]], plan.Consumer]] = args.consumer

    def key_of(name: str) -> str:
        key = env.get(name)
        if not key:
            raise BenchmarkError(f"the environment has no {name} with the key to call with")
        return key

    if asked:
        return [make(key_of) for make in asked]
    return [plan.Consumer(ONLY, key_of(args.api_key_env), priority=args.priority)]


def _look_at_output(path: Path | None) -> None:
    """Make the file of records before there are any: a long run must not end without them."""
    if path is not None:
        try:
            append(path, b"")
        except OSError as error:
            raise BenchmarkError(f"{path}: {error.strerror}") from None


def _make_room(connections: int) -> int:
    """Raise the limit of open files as far as needed and allowed. Returns how many connections fit in."""
    if sys.platform == "win32":
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections if soft == resource.RLIM_INFINITY else max(0, min(connections, soft - OTHER_FILES))
