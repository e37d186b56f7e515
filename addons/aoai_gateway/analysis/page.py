"""The report as one HTML page, light or dark as the reader's system, and with nothing from elsewhere.

Charts are SVG, drawn here. No script: it can be mailed, archived and printed.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis import shown
from aoai_gateway.analysis.text import counted, money, percent, short, span
from aoai_gateway.wire.printing import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 960, 240, 56, 24, 12

SHADES = 7
"""Colours that the style sheet has: six for consumers, one for the others."""

LONG_NAME = 20
"""Characters of a name that may not fit its column."""

LABELS = 6
"""Times below a chart, at most."""


def page(report: dict[str, Any], most: int = shown.MOST) -> str:
    """Make the page. ``most``: rows of each table; 0: all."""
    body = "\n".join(_body(report, most))
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>Usage report</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _body(report: dict[str, Any], most: int) -> Iterator[str]:
    yield "<h1>Usage report</h1>"
    if not report["consumers"]:
        yield "<p>There are no records in this time.</p>"
        yield from _remarks(report)
        return
    yield (
        f'<p class="lead">{_time(report["from"])} to {_time(report["to"])} UTC · '
        f"{counted(report['records'], 'record')} of {counted(report['minutes'], 'minute')}</p>"
    )
    yield from _tiles(report["totals"])
    yield from _tokens_chart(report["series"])
    if report["totals"]["refused"]:
        yield from _refused_chart(report["series"])
    if said := shown.left_out(report, most):
        yield f'<p class="note">{said}.</p>'
    yield f"<h2>Quota that each needs in {report['percentile']:g} % of its minutes</h2>"
    yield from _needs(shown.needs(report, most).rows)
    yield from _consumers(shown.consumers(report, most))
    yield from _throttled(shown.throttled(report, most))
    yield from _tiers(shown.service_tiers(report, most))
    yield from _provisioned(report["provisioned"])
    yield from _remarks(report)
    yield (
        '<p class="note">A call belongs to the minute (UTC) in which it began. Averages are over all '
        "minutes, percentiles over those in which a consumer called. The need counts what was used, and a "
        "mean call for each call that a quota refused and that was no retry.</p>"
    )


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what was passed over, and what the records do not tell."""
    said = [f"Passed over: {report['passed_over']}."] if report["passed_over"] else []
    for each in (*said, *report["remarks"]):
        yield f'<p class="note">{_text(each)}</p>'


def _text(text: str) -> str:
    """Write a text that comes from outside: no markup, and in the order that it has."""
    return escape(printable(text))


def _name(text: str) -> str:
    """Write a name, of which a table shows the begin, and all of it where the pointer rests."""
    written = _text(text)
    told = f' title="{written}"' if len(text) > LONG_NAME else ""
    return f'<span class="name"{told}>{written}</span>'


def _tiles(totals: Mapping[str, Any]) -> Iterator[str]:
    served = totals["served"] / totals["requests"] if totals["requests"] else None
    tiles = [
        ("Requests", short(totals["requests"]), f"{percent(served)} served"),
        (
            "Refused with 429",
            short(totals["refused"]),
            f"{totals['errors']:,} errors, {totals['aborted']:,} aborted",
        ),
        ("Tokens", short(totals["input_tokens"] + totals["output_tokens"]), _in_and_out(totals)),
    ]
    if totals["cost"] is not None:
        tiles.append(("Cost", escape(money(totals["cost"])), "by the price table"))
    yield '<div class="tiles">'
    for title, figure, about in tiles:
        yield f'<div class="tile"><span>{title}</span><b>{figure}</b><small>{about}</small></div>'
    yield "</div>"


def _in_and_out(totals: Mapping[str, Any]) -> str:
    return f"{short(totals['input_tokens'])} in, {short(totals['output_tokens'])} out"


# --- charts ----------------------------------------------------------------------------------------------


def _tokens_chart(series: Mapping[str, Any]) -> Iterator[str]:
    minutes = series["bucket_minutes"]
    lines = {name: [value / minutes for value in values] for name, values in series["tokens"].items()}
    sums = [sum(values) for values in zip(*lines.values(), strict=True)]
    yield "<h2>Tokens per minute</h2>"
    yield _legend(list(lines))
    top = _round_up(max(sums, default=0))
    yield _svg_open("Tokens per minute by consumer")
    yield from _grid(top, series)
    below = [0.0] * len(sums)
    for number, values in enumerate(lines.values()):
        above = [a + b for a, b in zip(below, values, strict=True)]
        yield _area(below, above, top, f"s{number % SHADES}")
        below = above
    yield "</svg></div>"


def _refused_chart(series: Mapping[str, Any]) -> Iterator[str]:
    values = [value / series["bucket_minutes"] for value in series["refused"]]
    yield "<h2>Refused with 429, per minute</h2>"
    top = _round_up(max(values, default=0))
    yield _svg_open("Refused calls per minute")
    yield from _grid(top, series)
    step = (WIDTH - LEFT) / len(values)
    for number, value in enumerate(values):
        if value:
            height = value / top * (HEIGHT - BOTTOM - TOP)
            yield (
                f'<rect class="bad" x="{LEFT + number * step:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" '
                f'width="{max(1.0, step - 1):.1f}" height="{height:.1f}"/>'
            )
    yield "</svg></div>"


def _svg_open(label: str) -> str:
    return f'<div class="scroll"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'


def _grid(top: float, series: Mapping[str, Any]) -> Iterator[str]:
    for part in range(5):
        value = top * part / 4
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * part / 4
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    starts = series["starts"]
    days = (starts[-1] - starts[0]) / 86_400
    form = "%H:%M" if days <= 2 else "%d %b %H:%M" if days <= LABELS else "%d %b"
    for index in range(0, len(starts), math.ceil(len(starts) / LABELS)):
        x = LEFT + (WIDTH - LEFT) * index / len(starts)
        when = datetime.fromtimestamp(starts[index], UTC)
        yield f'<text x="{x:.1f}" y="{HEIGHT - 6}">{when:{form}}</text>'


def _area(below: Sequence[float], above: Sequence[float], top: float, shade: str) -> str:
    step = (WIDTH - LEFT) / len(above)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)

    there = [
        f"{LEFT + (n + edge) * step:.1f},{y(value):.1f}" for n, value in enumerate(above) for edge in (0, 1)
    ]
    back = [
        f"{LEFT + (n + edge) * step:.1f},{y(below[n]):.1f}"
        for n in range(len(below) - 1, -1, -1)
        for edge in (1, 0)
    ]
    return f'<polygon class="{shade}" points="{" ".join(there + back)}"/>'


def _legend(names: Sequence[str]) -> str:
    items = (f'<span><i class="s{n % SHADES}"></i>{_name(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{"".join(items)}</p>'


def _round_up(value: float) -> float:
    """Return a round number that is not below a value: the top of a chart."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 4, 5, 8, 10) if unit * step >= value)


# --- tables ----------------------------------------------------------------------------------------------


def _needs(consumers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    top = max(max(row["need_tokens_per_minute"], row["has_tokens_per_minute"] or 0) for row in consumers)
    rows = []
    for row in consumers:
        need, has = row["need_tokens_per_minute"], row["has_tokens_per_minute"]
        shade = "bad" if has is not None and need > has else "s0"
        bar = f'<div class="bar"><i class="{shade}" style="width:{_part(need, top)}%"></i>'
        if has is not None:
            bar += f'<u style="left:{_part(has, top)}%"></u>'
        rows.append(
            (
                _name(row["client"]),
                _name(row["deployment"]),
                bar + "</div>",
                short(need),
                "–" if has is None else short(has),
                short(row["need_requests_per_minute"]),
                "–" if row["has_requests_per_minute"] is None else short(row["has_requests_per_minute"]),
            )
        )
    head = ("client", "deployment", "", "tokens/min", "has", "requests/min", "has")
    yield from _table(head, rows)


def _part(value: float, top: float) -> str:
    return f"{100 * value / top:.1f}" if top else "0"


def _consumers(found: shown.Shown) -> Iterator[str]:
    yield "<h2>Consumers</h2>"
    head = (
        "client",
        "deployment",
        "requests",
        "429",
        "tokens in",
        "out",
        "in : out",
        "streams",
        "TPM p95",
        "peak",
        "p50",
        "p95",
        "ttft p95",
        "spill",
        "cost",
    )
    rows = [
        (
            _name(row["client"]),
            _name(row["deployment"]),
            f"{row['requests']:,}",
            f"{row['refused']:,}",
            short(row["input_tokens"]),
            short(row["output_tokens"]),
            "–" if row["prompt_per_completion"] is None else f"{row['prompt_per_completion']:.1f}",
            percent(row["streaming_share"]),
            short(row["tpm_p95"]),
            short(row["tpm_peak"]),
            span(row["duration_p50_ms"]),
            span(row["duration_p95_ms"]),
            span(row["first_token_p95_ms"]),
            percent(row["spill_share"]),
            escape(money(row["cost"])),
        )
        for row in found.all
    ]
    yield from _table(head, rows)


def _throttled(found: shown.Shown) -> Iterator[str]:
    if not found.rows:
        return
    yield "<h2>Throttled</h2>"
    rows = []
    for row in found.all:
        causes = [f"{cause} {count:,}" for cause, count in row["by_cause"].items()]
        causes += [f"dry run: {cause} {count:,}" for cause, count in row["dry_run_by_cause"].items()]
        worst = f"{_time(row['worst_minute'])} ({row['in_worst_minute']:,})" if row["worst_minute"] else "–"
        rows.append(
            (
                _name(row["client"]),
                _name(row["deployment"]),
                f"{row['refused']:,} of {row['of']:,}",
                _time(row["first"]) if row["first"] else "–",
                _time(row["last"]) if row["last"] else "–",
                worst,
                _text(", ".join(causes)),
            )
        )
    yield from _table(("client", "deployment", "429s", "first", "last", "worst minute", "why"), rows)


def _provisioned(provisioned: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not provisioned:
        return
    yield "<h2>Provisioned throughput, at this traffic for a month</h2>"
    rows = [
        (
            _name(row["deployment"]),
            f"{row['units']:,}",
            short(row["load_tokens_per_minute"]),
            percent(row["utilisation"]),
            percent(row["share_of_load_within"]),
            f"{row['provisioned_cost_per_month']:,.0f}",
            f"{row['payg_cost_per_month']:,.0f}",
        )
        for row in provisioned
    ]
    head = ("deployment", "units", "load per minute", "used", "of the load within", "PTU", "pay as you go")
    yield from _table(head, rows)


def _tiers(found: shown.Shown) -> Iterator[str]:
    if not found.rows:
        return
    yield "<h2>Service tiers</h2>"
    rows = [
        (
            _name(row["client"]),
            _name(row["deployment"]),
            _text(row["requested"] or "–"),
            _text(row["served"] or "–"),
            f"{row['requests']:,}",
            short(row["input_tokens"]),
            short(row["output_tokens"]),
            escape(money(row["cost"])),
        )
        for row in found.all
    ]
    yield from _table(("client", "deployment", "asked for", "served", "requests", "in", "out", "cost"), rows)


TEXTS = ("client", "deployment", "", "why", "asked for", "served")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    kinds = ["" if name in TEXTS else ' class="n"' for name in head]
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, head, strict=True))
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _time(text: str) -> str:
    return text[:16].replace("T", " ")
