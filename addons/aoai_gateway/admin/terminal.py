"""The state in a terminal: compact tables of plain text, coloured where that is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aoai_gateway.wire.printing import printable

type Paint = Callable[[str, str], str]

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}

UNITS = {
    "tokens_per_minute": "tokens/min",
    "requests_per_minute": "requests/min",
    "tokens_per_day": "tokens/day",
    "tokens_per_month": "tokens/month",
    "cost_per_day": "in money/day",
    "cost_per_month": "in money/month",
}

COUNTERS = {"memory": "counters in memory", "shared": "counters shared"}
"""Where the counters of quotas live; the loss of a shared store is a sentence."""

NARROWEST = 40

BAR = 8

_STYLED = re.compile(r"\x1b\[[0-9;]*m")


def paint(text: str, style: str) -> str:
    """Colour a text."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if text else text


def plain(text: str, style: str) -> str:
    """Leave a text as it is."""
    return text


def render(state: dict[str, Any], *, width: int, colour: bool) -> str:
    """Return the state as lines of at most ``width`` characters."""
    return "\n".join(
        _fit(line, max(width, NARROWEST)) for line in _View(state, paint if colour else plain).lines()
    )


def table(state: dict[str, Any], name: str) -> list[str]:
    """Return one table of the state, uncoloured: ``backends``, ``deployments`` or ``clients``."""
    return list(_View(state, plain).tables()[name])


@dataclass(slots=True)
class _View:
    state: dict[str, Any]
    paint: Paint

    def tables(self) -> dict[str, Iterator[str]]:
        return {
            "backends": _table(("backend", "in flight", "15 min", "headroom", "state"), self._backends()),
            "deployments": _table(("deployment", "available", "in flight", "waiting"), self._deployments()),
            "clients": _table(("client", "class", "in flight", "15 min", "quota"), self._clients()),
            **(
                {"sinks": _table(("records to", "written", "lost", "waiting", "state"), self._sinks())}
                if self.state["sinks"]
                else {}
            ),
        }

    def lines(self) -> Iterator[str]:
        yield from self._head()
        for rows in self.tables().values():
            yield ""
            yield from rows
        actions = self.state["by_hand"]["actions"]
        if actions:
            yield ""
            yield self.paint("by hand", "dim")
            yield from (f"{each['time']}  {printable(each['text'])}" for each in actions[:5])

    def _head(self) -> Iterator[str]:
        gateway, traffic = self.state["gateway"], self.state["traffic"]
        status = gateway["status"]
        counters = COUNTERS.get(gateway["state"], gateway["state"])
        about = [f"version {gateway['version']}", f"up {span(gateway['uptime_seconds'])}", counters]
        yield (
            self.paint("aoai-gateway", "bold")
            + f"  {self.paint(status, 'green' if status == 'ready' else 'yellow')}  "
            + self.paint(" · ".join(about), "dim")
        )
        for trouble in gateway["trouble"]:
            yield self.paint(f"! {printable(trouble['text'])}", "red")
        for problem in gateway["config_errors"]:
            yield self.paint(f"not loaded: {printable(problem)}", "red")
        for said, colour in _identities(self.state["identities"]):
            yield self.paint(printable(said), colour)
        minute = round(60 / traffic["bucket_seconds"])
        calls, refused = (sum(traffic[key][-minute:]) for key in ("calls", "refused"))
        tokens = sum(sum(traffic[key][-minute:]) for key in ("tokens_in", "tokens_out"))
        slow = [each for each in traffic["p95_ms"][-minute:] if each is not None]
        parts = [
            f"{gateway['in_flight']} in flight",
            self._alarm(f"{gateway['waiting']} waiting", gateway["waiting"]),
            f"{short(calls)} calls/min",
            self._alarm(f"{short(refused)} 429s/min", refused),
            f"{short(tokens)} tokens/min",
            f"p95 {span(max(slow) / 1000)}" if slow else "p95 –",
        ]
        yield "   ".join(parts)

    def _alarm(self, text: str, number: float) -> str:
        return self.paint(text, "yellow") if number else text

    def _backends(self) -> Iterator[Sequence[str]]:
        for backend in self.state["backends"]:
            recent = backend["recent"] or {"attempts": [], "failed": []}
            attempts, failed = sum(recent["attempts"]), sum(recent["failed"])
            state, why = self._condition(backend)
            share = backend["headroom"]
            yield (
                printable(backend["name"]),
                str(backend["in_flight"]),
                f"{short(attempts)}, {self._alarm(f'{short(failed)} failed', failed)}",
                self._bar(1 - share, f"{share:4.0%} free")
                if share is not None
                else self.paint("not known", "dim"),
                f"{state}  {self.paint(why, 'dim')}" if why else state,
            )

    def _condition(self, backend: dict[str, Any]) -> tuple[str, str]:
        if backend["status"] == "off":
            return self.paint("off", "yellow"), f"switched off {_in(backend['switched_off'])}"
        if backend["status"] == "ok":
            return self.paint("ok", "green"), ""
        words, reasons = [], []
        for each in backend["classes"]:
            if each["break"] is not None:
                words.append((each["priority"], span(each["break"]["seconds_left"]), "red"))
                whole = " (whole endpoint)" if each["break"]["whole_endpoint"] else ""
                since = each["break"]["since"].partition("T")[2]
                reasons.append(f"{printable(each['break']['reason'])}{whole}, since {since}")
            else:
                words.append((each["priority"], "half open" if each["on_probation"] else "ok", "yellow"))
        if len({word for _, word, _ in words}) == 1:
            words = [("", *words[0][1:])]
        state = " ".join(self.paint(f"{who} {word}".strip(), style) for who, word, style in words)
        return state, "; ".join(dict.fromkeys(reasons))

    def _deployments(self) -> Iterator[Sequence[str]]:
        for each in self.state["deployments"]:
            queue = each["line"]
            waiting = ", ".join(f"{cls['waiting']} {printable(cls['priority'])}" for cls in queue["classes"])
            if waiting:
                waiting = self.paint(f"{waiting}; longest {span(queue['longest_wait_seconds'])}", "yellow")
            available, pool = each["available"], len(each["pool"])
            shown = f"{available} of {pool}"
            yield (
                printable(each["name"]),
                shown if available else self.paint(shown, "red"),
                str(each["in_flight"]),
                waiting or self.paint("none", "dim"),
            )

    def _clients(self) -> Iterator[Sequence[str]]:
        for client in self.state["clients"]:
            recent = client["recent"] or {"calls": [], "refused": [], "tokens": []}
            calls, refused, tokens = (sum(recent[key]) for key in ("calls", "refused", "tokens"))
            quotas = [self._quota(each) for each in client["quotas"]]
            if client["switched_off"]:
                quotas = [self.paint(f"switched off {_in(client['switched_off'])}", "yellow")]
            limited = self._alarm(f"{short(refused)} 429s", refused)
            first, *rest = quotas or [self.paint("no limits", "dim")]
            yield (
                printable(client["name"]),
                printable(client["priority"]),
                str(client["in_flight"])
                + (self.paint(f" +{waiting}", "yellow") if (waiting := client["waiting"]) else ""),
                f"{short(calls)} calls, {limited}, {short(tokens)} tokens",
                first,
            )
            yield from (("", "", "", "", each) for each in rest)

    def _sinks(self) -> Iterator[Sequence[str]]:
        for sink in self.state["sinks"]:
            trouble = sink["trouble"]
            yield (
                printable(sink["name"]),
                short(sink["written"]),
                self._alarm(short(sink["dropped"]), sink["dropped"]),
                short(sink["waiting"]),
                self.paint(printable(trouble), "red") if trouble else self.paint("ok", "green"),
            )

    def _quota(self, quota: dict[str, Any]) -> str:
        used, limit = quota["used"], quota["limit"]
        where = f" for {printable(quota['deployment'])}" if quota["deployment"] is not None else ""
        text = f"{short(used)} of {short(limit)} {UNITS[quota['kind']]}{where}"
        if used and quota["reset_seconds"]:
            text += f", free in {span(quota['reset_seconds'])}"
        return self._bar(used / limit if limit else 1.0, text)

    def _bar(self, share: float, text: str) -> str:
        full = round(BAR * min(1.0, max(0.0, share)))
        style = "red" if share > 0.95 else "yellow" if share > 0.75 else "blue"
        return self.paint("█" * full, style) + self.paint("░" * (BAR - full), "dim") + f" {text}"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(_length(row[column]) for row in cells) for column in range(len(head))]
    for number, row in enumerate(cells):
        line = "  ".join(
            cell + " " * (width - _length(cell)) for cell, width in zip(row, widths, strict=True)
        )
        # The head is dim only where anything is coloured at all.
        styled = number == 0 and any("\x1b" in cell for each in cells for cell in each)
        yield paint(line.rstrip(), "dim") if styled else line.rstrip()


def _length(text: str) -> int:
    return len(_STYLED.sub("", text))


def _fit(line: str, width: int) -> str:
    """Cut a line, not its styles."""
    if _length(line) <= width:
        return line
    kept, left = [], width - 1
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            kept.append(part)
        else:
            kept.append(part[:left])
            left -= len(part[:left])
    return "".join(kept) + "…"


def _in(switched_off: str) -> str:
    return "in the configuration" if switched_off == "configuration" else switched_off


def _identities(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Iterate over what is wrong with credentials, or ends soon, each with its colour."""
    for each in (*state["credentials"], *state["issuers"]):
        if each["problem"]:
            yield f"{each['name']}: {each['problem']}", "yellow" if each["ok"] else "red"
    for each in state["expiring"]:
        days, what = each["days"], each["what"]
        yield (f"{what} ends in {days} days", "yellow") if days >= 0 else (f"{what} has ended", "red")


def short(number: float) -> str:
    """Write a count in few characters: ``9,999``, ``12.3k``, ``4M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            value = number / (1e3 if unit == "k" else size)
            return (f"{value:.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")) + unit
    return f"{number:,.1f}".removesuffix(".0")


def span(seconds: float | None) -> str:
    """Write a duration in few characters."""
    if seconds is None:
        return "never"
    for below, size, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < below:
            return f"{seconds / size:.1f} {unit}" if below == 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
