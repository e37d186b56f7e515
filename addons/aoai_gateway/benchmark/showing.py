"""What a run shows while it is under way, and its summary: for a terminal of 80 columns."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from aoai_gateway.analysis.text import columns, percent, short, span
from aoai_gateway.wire.printing import cut

if TYPE_CHECKING:
    from aoai_gateway.benchmark.running import Run

WIDEST = 120

BAR = 24

PLAIN_SECONDS = 5
"""Seconds between two lines, where standard error is no terminal."""

LATE_SECONDS = 0.05
"""A 99th percentile of lateness above which the summary warns: the figures tell of this machine, too."""


HINTS = {
    "401": "The key was refused: --api-key-env names the variable that holds it, --bearer sends a token.",
    "403": "The key may not call this deployment, or the network may not.",
    "404": "The address has no such operation: URL is the resource's or the gateway's, without a path.",
    "DeploymentNotFound": "There is no such deployment (--deployment) at this address.",
    "timeout": "No answer came in the time that --timeout gives.",
}
"""What to look at if no call was served, by the cause."""


class Progress:
    """Shows a run each second: a panel on a terminal, lines elsewhere, or JSON on standard output."""

    def __init__(self, run: Run, form: str, out: TextIO = sys.stdout, error: TextIO = sys.stderr) -> None:
        self._run = run
        self._form = form
        self._out = out
        self._error = error
        self._lines = 0
        self._shown = 0

    def show(self) -> None:
        """Show how it stands."""
        if self._form == "jsonl":
            self._out.write(json.dumps(self._run.now()) + "\n")
            self._out.flush()
        elif self._error.isatty():
            self._redraw(list(self._panel(self._run.now())))
        elif self._shown % PLAIN_SECONDS == 0:
            self._error.write(line(self._run.now()) + "\n")
            self._error.flush()
        self._shown += 1

    def clear(self) -> None:
        """Take the panel away."""
        self._redraw([])

    def _redraw(self, lines: list[str]) -> None:
        if self._lines:
            self._error.write(f"\x1b[{self._lines}A\x1b[J")
        self._error.writelines(f"{each}\n" for each in lines)
        self._error.flush()
        self._lines = len(lines)

    def _panel(self, now: dict[str, Any]) -> Iterator[str]:
        width = min(WIDEST, shutil.get_terminal_size((80, 24)).columns)
        ends, elapsed = self._run.ends, now["time"]
        if self._run.waits_for_the_rest:
            head = f"{elapsed:.0f} s, waiting for {now['processing'] + now['waiting']} answers"
        elif ends < float("inf"):
            done = min(BAR, int(BAR * elapsed / ends))
            head = f"{'█' * done}{'·' * (BAR - done)} {elapsed:.0f} of {ends:.0f} s"
        else:
            head = f"{elapsed:.0f} s, until Ctrl-C"
        yield cut(head, width)
        yield cut(
            f"sent {now['requests']:,}   under way {now['processing']:,}   waiting {now['waiting']:,}   "
            f"served {now['completed']:,}   429 {now['throttled']:,}   failed {now['failures']:,}",
            width,
        )
        if now["causes"]:
            yield cut(_not_served(now), width)
        yield from columns(list(_table([("", now)])), width)


def line(now: dict[str, Any]) -> str:
    """Write the figures of the last seconds as a line."""
    return (
        f"{now['time']:.0f} s: sent {now['requests']:,}, under way {now['processing']:,}, "
        f"429 {now['throttled']:,}, "
        f"failed {now['failures']:,}, rpm {short(now['rpm'])}, tpm {short(now['ctx_tpm'] + now['gen_tpm'])}, "
        f"ttft {_time(now['ttft_avg'])}, e2e {_time(now['e2e_avg'])}, util {percent(now['util_avg'])}"
    ) + (f"; {_not_served(now)}" if now["causes"] else "")


def summary(made: dict[str, Any]) -> str:
    """Write the summary of a run."""
    width = min(WIDEST, shutil.get_terminal_size((80, 24)).columns)
    return "\n".join(each.rstrip() for each in _summary(made, width)) + "\n"


def _summary(made: dict[str, Any], width: int) -> Iterator[str]:
    yield (
        f"{made['calls']:,} calls in {made['seconds']:g} s: {made['completed']:,} served, "
        f"{made['throttled']:,} throttled, {made['failures']:,} failed"
    )
    if made["causes"]:
        yield from textwrap.wrap(_not_served(made), width)
        if not made["completed"]:
            yield from (hint for cause, hint in HINTS.items() if cause in made["causes"])
    if made["ended_early"]:
        early = "Ended early: each client's first calls were refused, as the others would be."
        yield from textwrap.wrap(early, width)
    steps = [(f"{short(step['rate'])}/min", step) for step in made["steps"]]
    yield from _section("At each rate", steps, width)
    if len(made["consumers"]) > 1:
        yield from _section("Clients", [(each["consumer"], each) for each in made["consumers"]], width)
    yield ""
    yield from columns(list(_times(made)), width)
    yield from _not_reached(made, width)
    late = made["late_99th"]
    if late is not None and late > LATE_SECONDS:
        yield ""
        yield from textwrap.wrap(
            f"1 % of the calls were sent more than {_time(late)} late: all clients were busy, "
            f"or this machine is.",
            width,
        )


def _not_served(figures: dict[str, Any]) -> str:
    return "Not served: " + ", ".join(f"{cause} {count:,}" for cause, count in figures["causes"].items())


def _not_reached(made: dict[str, Any], width: int) -> Iterator[str]:
    """Say which rates were not reached, and why, so that they are not taken for the target's."""
    why = "all clients were busy (--clients)" if made["were_all_busy"] else "this machine sends no more"
    for step in made["steps"]:
        if step["is_behind"]:
            asked, sent = short(step["rate"]), short(step["sent_rate"])
            yield ""
            yield from textwrap.wrap(f"{asked} calls a minute were asked for, and {sent} sent: {why}.", width)


def _section(title: str, rows: Sequence[tuple[str, dict[str, Any]]], width: int) -> Iterator[str]:
    yield ""
    yield title
    yield from columns(list(_table(rows)), width)


def _table(rows: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[Sequence[str]]:
    yield "", "rpm", "tpm in", "out", "429", "fail", "ttft", "p95", "tbt", "p95", "e2e", "p95", "util"
    for name, row in rows:
        yield (
            name,
            short(row["rpm"]),
            short(row["ctx_tpm"]),
            short(row["gen_tpm"]),
            short(row["throttled"]),
            short(row["failures"]),
            *(_time(row[f"{kind}_{at}"]) for kind in ("ttft", "tbt", "e2e") for at in ("avg", "95th")),
            percent(row["util_avg"]),
        )


def _times(made: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield "", "average", "p50", "p95", "p99", "max"
    for name, key in (
        ("time to first token", "ttft"),
        ("time between tokens", "tbt"),
        ("end to end", "e2e"),
        ("sent too late by", "late"),
    ):
        yield name, *(_time(made[f"{key}_{at}"]) for at in ("avg", "50th", "95th", "99th", "max"))
    shares = [percent(made[f"util_{at}"]) for at in ("avg", "50th", "95th", "99th", "max")]
    if made["util_avg"] is not None:
        yield "utilization", *shares


def _time(seconds: float | None) -> str:
    if seconds is not None and 0 < seconds < 0.01:
        return f"{1000 * seconds:.1f}ms"
    return span(None if seconds is None else 1000 * seconds)
