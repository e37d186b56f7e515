"""The goodput benchmark's figures in virtual time: the engine alone, in the same way each time, in seconds.

    .venv/bin/python -m tests.bench.virtual_goodput [--seed 1 2 3] [--seconds 120]

The calls, limits and clients are those of `goodput.py`, which takes real processes and two minutes for each
run. The first table has the run in which 180 % of the capacity are asked for, by *plain* and with the
checkout's priorities; the second the one in which an endpoint hangs and then resets connections.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

from tests.bench.goodput import EXHAUSTED, HANG_SHARES, SHARES, offline_bound, unloaded_seconds
from tests.bench.load import percentile
from tests.engine.scenarios.goodput import Run, run


def slower(found: Run) -> float:
    """The p95 of critical answers, as a multiple of the same at an idle gateway."""
    critical = [each for each in found.asked if each.ask.cls == "critical"]
    return found.p95("critical") / percentile([unloaded_seconds(each.ask) for each in critical], 0.95)


def refusals_seen(found: Run) -> int:
    """How many 429s critical clients saw."""
    callers = (caller for each in found.asked if each.ask.cls == "critical" for caller in each.requests)
    return sum(caller.call.status == 429 for caller in callers)


def of_the_bound(found: Run) -> float:
    """Useful tokens, as a share of what is possible at most."""
    return found.useful / offline_bound([each.ask for each in found.asked], EXHAUSTED)


ROWS: Sequence[tuple[str, Callable[[Run], float], str]] = (
    ("critical calls answered in time", lambda found: found.success("critical"), ".1%"),
    ("standard", lambda found: found.success("standard"), ".1%"),
    ("batch", lambda found: found.success("batch"), ".1%"),
    ("p95 of critical calls, against an idle gateway", slower, ".2f"),
    ("429s that critical clients saw", refusals_seen, ".0f"),
    ("useful tokens, of what is possible at most", of_the_bound, ".1%"),
    ("429s from the backends, per answer", lambda found: found.refusals_per_answer, ".3f"),
)


def show(columns: Sequence[Sequence[Run]]) -> None:
    """Print a row for each figure: its mean over the seeds, and their range, for each column of runs."""
    for name, figure, form in ROWS:
        cells = [name]
        for runs in columns:
            values = [figure(found) for found in runs]
            cells.append(f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse the arguments and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    print("\n| mean (range) of the seeds | plain | with priorities |\n|---|---|---|")
    show(
        [
            [run(SHARES, options.seconds, seed, priorities=priorities) for seed in options.seed]
            for priorities in (False, True)
        ]
    )
    print("\n| an endpoint hangs | with priorities |\n|---|---|")
    hangs = [run(HANG_SHARES, options.seconds, seed, priorities=True, dead="west") for seed in options.seed]
    show([hangs])
    sent = ", ".join(str(len(found.traffic.azure.places["west"].sent_into)) for found in hangs)
    print(f"| calls sent into the dead endpoint, by seed | {sent} |")


if __name__ == "__main__":
    main()
