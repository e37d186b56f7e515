"""``aoai-gateway backtest FILE… --config A --config B``: recorded traffic under other configurations.

What would have happened is shown beside what did, for all calls, and for each client.

Its document: ``calls``, ``left_out`` (records that cannot be sent again), ``recorded`` and ``candidates`` (a
list): each has ``name``, ``totals``, ``clients`` (by name) and, of candidates, ``same`` (the share of calls
that end in the same way at the same backend), ``gains`` and ``loses`` (clients of which more, or fewer, calls
are served than recorded; the difference) and ``unknown_clients`` (calls of clients that it does not have).
*Totals*, and each client, have ``calls``, ``served``, ``refused`` (by cause), ``waited`` (calls that were
held back for at least 50 ms), ``waited_seconds`` (all together), ``spilled``, ``backends`` (calls served, by
backend) and ``cost``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.reading import Reading, RecordsError, Selection, parser_of_records
from aoai_gateway.analysis.recorded import Outcomes, recording_of
from aoai_gateway.analysis.records import read, uncollected
from aoai_gateway.analysis.shown import MOST
from aoai_gateway.analysis.text import columns, counted, money, percent, remarks, short
from aoai_gateway.analysis.virtual import VirtualGateway
from aoai_gateway.wire.printing import cut

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.analysis.recorded import Recording
    from aoai_gateway.config.models import Config

WORTH_TELLING = 0.05
"""Seconds of waiting from which on a call counts as one that waited."""

RECORDED = "recorded"


@dataclass(slots=True)
class Tally:
    """What calls came to."""

    calls: int = 0
    served: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    waited_seconds: float = 0.0
    spilled: int = 0
    backends: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    priced: int = 0

    def add(self, outcome: Outcomes) -> None:
        """Count a call."""
        self.calls += 1
        if outcome.decision.end == "served":
            self.served += 1
            self.spilled += outcome.spilled
            self.backends[outcome.decision.backend] += 1
        else:
            self.refused[outcome.decision.end] += 1
        if outcome.waited >= WORTH_TELLING:
            self.waited += 1
            self.waited_seconds += outcome.waited
        if outcome.cost is not None:
            self.cost += outcome.cost
            self.priced += 1

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "calls": self.calls,
            "served": self.served,
            "refused": dict(self.refused.most_common()),
            "waited": self.waited,
            "waited_seconds": round(self.waited_seconds, 3),
            "spilled": self.spilled,
            "backends": dict(self.backends.most_common()),
            "cost": round(self.cost, 6) if self.priced else None,
        }


def backtest(
    recording: Recording,
    candidates: Mapping[str, Config],
    *,
    seed: int = 1,
    progress: Callable[[str, int], None] = lambda _, __: None,
) -> dict[str, Any]:
    """Lead the recording through each candidate. ``progress`` is told its name and a call's number."""
    recorded = _tallied(
        Outcomes(call, call.decision, call.waited, call.spilled, call.cost) for call in recording.calls
    )
    before = recorded["clients"]
    found = []
    for name, config in candidates.items():
        gateway = VirtualGateway(config, recording, seed=seed)
        outcomes = gateway.run(partial(progress, name))
        made = _tallied(outcomes)
        same = sum(outcome.decision == outcome.call.decision for outcome in outcomes)
        more = {each: made["clients"][each]["served"] - before[each]["served"] for each in before}
        found.append(
            {
                "name": name,
                "same": round(same / len(outcomes), 4) if outcomes else None,
                "gains": {each: n for each, n in more.items() if n > 0},
                "loses": {each: n for each, n in more.items() if n < 0},
                "unknown_clients": gateway.unknown_clients,
                **made,
            }
        )
    return {
        "calls": len(recording.calls),
        "left_out": recording.left_out,
        "recorded": {"name": RECORDED, **recorded},
        "candidates": found,
    }


def _tallied(outcomes: Iterable[Outcomes]) -> dict[str, Any]:
    totals, clients = Tally(), dict[str, Tally]()
    for outcome in outcomes:
        totals.add(outcome)
        tally = clients.get(outcome.call.client)
        if tally is None:
            tally = clients[outcome.call.client] = Tally()
        tally.add(outcome)
    return {
        "totals": totals.document(),
        "clients": {name: clients[name].document() for name in sorted(clients)},
    }


# --- the command -----------------------------------------------------------------------------------------

BAR = 30

CAUSES = {"401": "unknown client"}
"""Ends of calls whose codes say little."""

LONGEST_LABEL = 20


def main(words: Sequence[str], load_config: Callable[[str], Config]) -> int:
    """Run one command line. ``load_config``: gives the configuration of a path."""
    args = _parser().parse_args(words)
    candidates = {path: load_config(path) for path in args.config}
    reading = Reading()
    try:
        selection = Selection(args.since, args.until)
        with uncollected():
            recording = recording_of(read(args.files, selection, reading), retries=not args.without_retries)
            if not recording.calls:
                raise RecordsError(_nothing(recording, reading))
            made = backtest(recording, candidates, seed=args.seed, progress=_progress(len(recording.calls)))
    except RecordsError as error:
        print(f"aoai-gateway: {error}", file=sys.stderr)
        return 1
    made |= {"unreadable": reading.unreadable, "passed_over": reading.told(), "remarks": reading.remarks()}
    if args.format == "json":
        sys.stdout.write(json.dumps(made, indent=2) + "\n")
    else:
        sys.stdout.write(text(made, min(120, shutil.get_terminal_size((80, 24)).columns)))
    return 0


def _nothing(recording: Recording, reading: Reading) -> str:
    """Say why there is no call to lead."""
    if not reading.read:
        return reading.why_nothing()
    said = f"{counted(recording.left_out, 'record')}, but no call that can be sent again"
    return ". ".join((said, *reading.remarks()))


def text(made: dict[str, Any], width: int) -> str:
    """Write the result as lines of at most this width."""
    return "\n".join(cut(line, width) for line in _lines(made, width)) + "\n"


def _lines(made: dict[str, Any], width: int) -> Iterator[str]:
    left_out = f"; {counted(made['left_out'], 'record')} cannot be sent again" if made["left_out"] else ""
    yield f"{counted(made['calls'], 'call')}{left_out}"
    yield from remarks(made, width)
    yield ""
    runs = [run | {"name": _label(run["name"])} for run in (made["recorded"], *made["candidates"])]
    head = ("", "served", "refused", "waited", "mean wait", "spilled", "cost", "same")
    yield from columns([head, *(_row(run["name"], run["totals"], run.get("same")) for run in runs)], width)
    for run in runs:
        refused = run["totals"]["refused"]
        if refused:
            causes = (f"{count:,} × {CAUSES.get(cause, cause)}" for cause, count in refused.items())
            yield from wrap(f"Refused, {run['name']}: {', '.join(causes)}", width)
    yield from _clients(runs, width)
    for run in runs[1:]:
        if unknown := run["unknown_clients"]:
            clients = "client" if unknown == 1 else "clients"
            yield f"{run['name']} does not have the {clients} of {counted(unknown, 'call')}."


def _label(name: str) -> str:
    """Return a name in few characters; of a path, its end tells most."""
    return name if len(name) <= LONGEST_LABEL else f"…{name[1 - LONGEST_LABEL :]}"


def _row(name: str, totals: dict[str, Any], same: float | None) -> tuple[str, ...]:
    refused = sum(totals["refused"].values())
    return (
        name,
        short(totals["served"]),
        short(refused),
        short(totals["waited"]),
        f"{totals['waited_seconds'] / totals['waited']:.1f}s" if totals["waited"] else "–",
        percent(totals["spilled"] / totals["served"] if totals["served"] else None),
        money(totals["cost"]),
        "" if same is None else f"{100 * same:.1f}%",
    )


def _clients(runs: list[dict[str, Any]], width: int) -> Iterator[str]:
    """One line for each client: its calls, and of each run those that are served, with the difference.

    Of very many clients those are shown of which most changes; the others are one.
    """
    served = {
        name: (recorded["calls"], *(run["clients"][name]["served"] for run in runs))
        for name, recorded in runs[0]["clients"].items()
    }
    names, table = list(served), [("client", "calls", *(run["name"] for run in runs))]
    if len(names) > MOST:
        names = sorted(sorted(names, key=lambda name: _importance(served[name]))[:MOST])
    table += [(name, *_served(*served[name])) for name in names]
    if rest := [served[name] for name in served.keys() - names]:
        table.append((f"{len(rest):,} more", *_served(*map(sum, zip(*rest, strict=True)))))
    yield ""
    yield "Served, and the difference to what was recorded"
    yield from columns(table, width)


def _importance(figures: tuple[int, ...]) -> tuple[int, int]:
    """Sort by the largest difference, then by calls. ``figures``: as `_served` takes them."""
    calls, recorded, *others = figures
    return -max(abs(served - recorded) for served in others), -calls


def _served(calls: int, recorded: int, *others: int) -> tuple[str, ...]:
    """Write a client's calls, and how many are served in each run."""
    changes = ((served, served - recorded) for served in others)
    told = (short(served) + (f" ({change:+,})" if change else "") for served, change in changes)
    return short(calls), short(recorded), *told


def _progress(total: int) -> Callable[[str, int], None]:
    if not sys.stderr.isatty() or not total:
        return lambda _, __: None

    def show(name: str, number: int) -> None:
        done = BAR * number // total
        sys.stderr.write(f"\r\x1b[K{'█' * done}{'·' * (BAR - done)} {100 * number // total:3} % {name[-40:]}")
        if number + 0x1000 >= total:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    return show


def _parser() -> argparse.ArgumentParser:
    parser = parser_of_records(
        "backtest", "Lead recorded traffic through other configurations, and say what changes."
    )
    parser.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="a candidate; may be repeated"
    )
    parser.add_argument(
        "--without-retries", action="store_true", help="leave out calls that an SDK made again by itself"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn by lot (default: 1)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return parser
