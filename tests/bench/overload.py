"""Who is served under overload, and what is wasted: the workloads of `workloads.py`, in one table.

    .venv/bin/python -m tests.bench.overload [--workload lasting|surge|long] [--seed 1 2 3] [--seconds 120]
    .venv/bin/python -m tests.bench.overload --real …
    .venv/bin/python -m tests.bench.overload --real --workers 1 2 --workload lasting --mode "classes, both"

Without `--real`, the engine runs in virtual time, which takes seconds. With it, real processes do: a
simulator, a gateway, and clients, for as long as the run lasts; the references are computed in any case. Both
ask for the same: the simulator writes 80 % of what a call allows, which is what callers plan with.
`--workers 1 2` runs each mode with one process and with two, one after the other; real processes only. All
of a run's gateway processes share one core, so what differs is what they know of each other, not their speed.
The machine's load is printed: where others keep its cores busy, p95 tells of them.

Rows: *plain* has no classes and nobody waits; then the shipped classes, where callers do not say how long
they wait and sizes are not declared, and where they do; then ideal queues that know Azure's limits exactly
(the last one refuses the largest 40 % of the batch calls at once), and the offline bound (see `goodput.py`).
Columns: calls answered in time, critical and batch; the p95 of critical answers, as a multiple of the same
when no other call is in the way; useful tokens, of the bound; 429s of backends per answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench import goodput
from tests.bench.goodput import CHECKOUT, EXHAUSTED, bound
from tests.bench.load import percentile
from tests.bench.sdk_like import Ask
from tests.bench.workloads import (
    MOST,
    SMALL_SHARE,
    WORKLOADS,
    Job,
    deadline_first,
    newest_first,
    served_in_order,
    without_the_largest,
)
from tests.engine.scenarios import overload as virtual

MODES = {
    "plain": {"priorities": False, "told": False, "declared": False},
    "classes, told nothing": {"priorities": True, "told": False, "declared": False},
    "classes, sizes declared": {"priorities": True, "told": False, "declared": True},
    "classes, patience told": {"priorities": True, "told": True, "declared": False},
    "classes, both": {"priorities": True, "told": True, "declared": True},
}
REFERENCES: dict[str, tuple[Callable[[Job], float], bool, float]] = {
    "ideal, newest first": (newest_first, False, 1.0),
    "ideal, nearest deadline first": (deadline_first, True, 1.0),
    "ideal, the same without the largest batch calls": (deadline_first, True, SMALL_SHARE),
}
"""The order, whether deadlines are known, and which share of the batch calls, by size, is served at all."""


@dataclass(frozen=True)
class Row:
    """One run's figures, as shares; `slower` and `refusals` where a run has them."""

    critical: float
    batch: float
    useful: float
    slower: float = float("nan")
    refusals: float = float("nan")


def most(work: Sequence[Job]) -> float:
    """The tokens of the offline bound."""
    return bound([(job.at, job.at + job.patience - job.takes, job.cost) for job in work], EXHAUSTED)


def share(work: Sequence[Job], answered: set[int], cls: str) -> float:
    """The part of a class's calls that were answered in time."""
    own = [job.number for job in work if job.cls == cls]
    return len(answered & set(own)) / len(own)


def row(work: Sequence[Job], took: dict[int, float], refusals: float) -> Row:
    """Make a row of how long each answer took, by job."""
    answered = set(took)
    critical = [job for job in work if job.cls == "critical"]
    p95 = percentile([took[job.number] for job in critical if job.number in took] or [float("nan")], 0.95)
    useful = sum(job.cost for job in work if job.number in answered) / most(work)
    slower = p95 / percentile([job.takes for job in critical], 0.95)
    return Row(share(work, answered, "critical"), share(work, answered, "batch"), useful, slower, refusals)


def in_virtual_time(work: Sequence[Job], seconds: float, seed: int, mode: str) -> Row:
    """Run the engine."""
    found = virtual.run(work, seconds, seed, **MODES[mode])
    took = {each.job.number: each.answered_at for each in found.calls if each.answered_at is not None}
    return row(work, took, found.refusals_per_answer())


def in_real_processes(work: Sequence[Job], seconds: float, mode: str, workers: int) -> Row:
    """Run a gateway, a simulator and clients."""
    by_number = {job.number: job for job in work}
    asks = [Ask(job.number, job.cls, job.at, job.patience, job.prompt, job.most, job.stream) for job in work]
    figures = asyncio.run(
        goodput.run(
            asks,
            seconds,
            body=lambda ask: body_of(by_number[ask.number]),
            completion_share=1 / MOST,
            workers=workers,
            **MODES[mode],
        )
    )
    took = {each.ask.number: each.seconds for each in figures.outcomes if each.tokens is not None}
    return row(work, took, figures.backend_refusals / max(1, figures.backend_answers))


def body_of(job: Job) -> bytes:
    """A request whose prompt has the tokens of a job; the simulator takes four bytes for a token."""
    text = "word" * (job.prompt - goodput.FRAMING_TOKENS)
    messages = [{"role": "user", "content": text}]
    body = {"model": "gpt-4o", "messages": messages, "max_tokens": job.most}
    if job.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def reference(work: Sequence[Job], name: str) -> Row:
    """Compute what an ideal queue does."""
    order, knows, small = REFERENCES[name]
    answered = served_in_order(without_the_largest(work, small), order, knows_deadlines=knows)
    useful = sum(job.cost for job in work if job.number in answered) / most(work)
    return Row(share(work, answered, "critical"), share(work, answered, "batch"), useful)


def show(name: str, rows: Sequence[Row]) -> None:
    """Print one line: the mean over seeds, and the worst seed."""

    def column(values: Sequence[float], worst: Callable[[Sequence[float]], float], form: str) -> str:
        mean = statistics.mean(values)
        return "–" if mean != mean else f"{mean:{form}} ({worst(values):{form}})"

    cells = (
        name,
        column([each.critical for each in rows], min, ".1%"),
        column([each.slower for each in rows], max, ".2f"),
        column([each.batch for each in rows], min, ".1%"),
        column([each.useful for each in rows], min, ".1%"),
        column([each.refusals for each in rows], max, ".3f"),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--mode", choices=MODES, nargs="+", default=list(MODES))
    parser.add_argument("--real", action="store_true", help="real processes instead of virtual time")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="of the gateway; with --real")
    options = parser.parse_args()
    if options.workers != [1] and not options.real:
        parser.error("--workers takes --real: tests/engine/test_peers.py has several workers in virtual time")
    os.environ["PYTHONPATH"] = str(CHECKOUT / "addons")  # the processes run this checkout's code
    for name in options.workload:
        works = {seed: WORKLOADS[name](options.seconds, seed) for seed in options.seed}
        asked = statistics.mean(sum(job.cost for job in work) for work in works.values())
        capacity = goodput.TOKENS_PER_SECOND * options.seconds
        print(f"\n{name}: {asked / capacity:.0%} of the capacity\n")
        print("| mean (worst seed) | critical | p95 | batch | useful | 429s per answer |")
        print("|---|---|---|---|---|---|")
        for mode in options.mode:
            if not options.real:
                rows = [in_virtual_time(work, options.seconds, seed, mode) for seed, work in works.items()]
                show(mode, rows)
                continue
            for workers in options.workers:
                rows = [in_real_processes(work, options.seconds, mode, workers) for work in works.values()]
                show(f"{mode}; {workers} workers, load {os.getloadavg()[0]:.1f}", rows)
        for ideal in REFERENCES:
            show(ideal, [reference(work, ideal) for work in works.values()])


if __name__ == "__main__":
    main()
