"""What a backtest takes: reading records, and leading their calls through the engine in virtual time.

    .venv/bin/python tests/bench/backtest.py [RECORDS] [--profile]

The records are those of ``records.py``: 40 clients at three deployments, eight calls a second. *Plain* is a
configuration without quotas, classes and prices; *policies* has all of them, and sizes of its backends;
*scarce* has backends that are too small, so that calls wait in queues; it leads a tenth of the calls.
Without the collector of circular garbage, as in the command. CPU time of one thread; of several rounds the
least counts.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.recorded import Recording, recording_of
from aoai_gateway.analysis.records import read, uncollected
from aoai_gateway.analysis.virtual import VirtualGateway
from aoai_gateway.config.models import Aoai, Client, Config, Endpoint, Price, Standin, VirtualDeployment
from tests.bench.records import records

DEPLOYMENTS = ("gpt-4o", "gpt-4o-mini", "o4-mini")
CLIENTS = 40
CLASSES = ("critical", "standard", "batch")


def config(kind: str) -> Config:
    """Make a candidate: two endpoints, one of them provisioned where its size is declared."""
    policies = kind != "plain"
    size = {"plain": None, "policies": 120_000, "scarce": 80_000}[kind]
    endpoints = tuple(
        Endpoint(
            name=name,
            url=f"https://{name}.example/",
            key=f"key-of-{name}",
            virtual_deployments=tuple(
                VirtualDeployment(
                    name=each,
                    model=each,
                    standins=(
                        Standin(
                            name=each,
                            tokens_per_minute=size,
                            provisioned=policies and name == "sweden",
                        ),
                    ),
                )
                for each in DEPLOYMENTS
            ),
        )
        for name in ("sweden", "france")
    )
    limits = {"max_tokens_per_minute": 30_000, "max_requests_per_minute": 300} if kind == "policies" else {}
    clients = tuple(
        Client(
            name=f"team-{number}",
            key=f"key-of-team-{number}",
            priority=CLASSES[number % 3] if policies else None,
            **limits,
        )
        for number in range(CLIENTS)
    )
    prices = {each: Price(input=2.5, output=10) for each in DEPLOYMENTS} if policies else {}
    return Config(aoai=Aoai(endpoints=endpoints), clients=clients, prices=prices)


def taken(work: Callable[[], object]) -> float:
    """Return the CPU seconds that something takes."""
    gc.collect()
    with uncollected():
        before = time.process_time()
        work()
        return time.process_time() - before


def read_all(path: Path) -> Recording:
    """Read a file, as the command does."""
    return recording_of(read([path], Selection(), Reading()))


def lead(candidate: Config, recording: Recording) -> None:
    """Lead all calls through a gateway of this configuration."""
    VirtualGateway(candidate, recording).run()


def main() -> None:
    """Measure both parts, and print them by call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("records", type=int, nargs="?", default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "usage.jsonl")
        with path.open("w") as out:
            out.writelines(json.dumps(each, separators=(",", ":")) + "\n" for each in records(args.records))
        recording = read_all(path)
        part = replace(recording, calls=recording.calls[: len(recording.calls) // 10])
        works: dict[str, tuple[Callable[[], object], Recording]] = {
            "reading": (lambda: read_all(path), recording)
        }
        for kind, calls in (("plain", recording), ("policies", recording), ("scarce", part)):
            works[f"engine, {kind}"] = (partial(lead, config(kind), calls), calls)
        for name, (work, calls) in works.items():
            if args.profile:
                profile = cProfile.Profile()
                profile.runcall(work)
                print(name)
                pstats.Stats(profile).sort_stats("tottime").print_stats(45)
                continue
            least = min(taken(work) for _ in range(args.rounds))
            print(f"{name:20} {1e6 * least / len(calls.calls):7.1f} µs of CPU per call", flush=True)


if __name__ == "__main__":
    main()
