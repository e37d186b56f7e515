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
from aoai_gateway.analysis.text import counted, money, percent, ratio, short, span
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
    yield from _titled("Consumers", CONSUMERS, shown.consumers(report, most).all)
    yield from _titled("Throttled", THROTTLED, shown.throttled(report, most).all)
    yield from _titled("Service tiers", SERVICE_TIERS, shown.service_tiers(report, most).all)
    provisioned = "Provisioned throughput, at this traffic for a month"
    yield from _titled(provisioned, PROVISIONED, report["provisioned"])
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
        (
            "Tokens",
            short(totals["input_tokens"] + totals["output_tokens"]),
            f"{short(totals['input_tokens'])} in, {short(totals['output_tokens'])} out",
        ),
    ]
    if totals["cost"] is not None:
        tiles.append(("Cost", escape(money(totals["cost"])), "by the price table"))
    yield '<div class="tiles">'
    for title, figure, about in tiles:
        yield f'<div class="tile"><span>{title}</span><b>{figure}</b><small>{about}</small></div>'
    yield "</div>"


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

TEXTS = ("client", "deployment", "", "why", "asked for", "served")
"""The titles of columns without figures."""

CONSUMER: Sequence[shown.Column] = (
    ("client", lambda row: _name(row["client"])),
    ("deployment", lambda row: _name(row["deployment"])),
)

CONSUMERS: Sequence[shown.Column] = (
    *CONSUMER,
    ("requests", lambda row: f"{row['requests']:,}"),
    ("429", lambda row: f"{row['refused']:,}"),
    ("tokens in", lambda row: short(row["input_tokens"])),
    ("out", lambda row: short(row["output_tokens"])),
    ("in : out", lambda row: ratio(row["prompt_per_completion"])),
    ("streams", lambda row: percent(row["streaming_share"])),
    ("TPM p95", lambda row: short(row["tpm_p95"])),
    ("peak", lambda row: short(row["tpm_peak"])),
    ("p50", lambda row: span(row["duration_p50_ms"])),
    ("p95", lambda row: span(row["duration_p95_ms"])),
    ("ttft p95", lambda row: span(row["first_token_p95_ms"])),
    ("spill", lambda row: percent(row["spill_share"])),
    ("cost", lambda row: escape(money(row["cost"]))),
)

THROTTLED: Sequence[shown.Column] = (
    *CONSUMER,
    ("429s", lambda row: f"{row['refused']:,} of {row['of']:,}"),
    ("first", lambda row: _time(row["first"])),
    ("last", lambda row: _time(row["last"])),
    ("worst minute", lambda row: _worst_minute(row)),
    ("why", lambda row: _causes(row)),
)

PROVISIONED: Sequence[shown.Column] = (
    ("deployment", lambda row: _name(row["deployment"])),
    ("units", lambda row: f"{row['units']:,}"),
    ("load per minute", lambda row: short(row["load_tokens_per_minute"])),
    ("used", lambda row: percent(row["utilisation"])),
    ("of the load within", lambda row: percent(row["share_of_load_within"])),
    ("PTU", lambda row: f"{row['provisioned_cost_per_month']:,.0f}"),
    ("pay as you go", lambda row: f"{row['payg_cost_per_month']:,.0f}"),
)

SERVICE_TIERS: Sequence[shown.Column] = (
    *CONSUMER,
    ("asked for", lambda row: _text(row["requested"] or "–")),
    ("served", lambda row: _text(row["served"] or "–")),
    ("requests", lambda row: f"{row['requests']:,}"),
    ("in", lambda row: short(row["input_tokens"])),
    ("out", lambda row: short(row["output_tokens"])),
    ("cost", lambda row: escape(money(row["cost"]))),
)


def _needs(consumers: Sequence[shown.Row]) -> Iterator[str]:
    top = max(max(row["need_tokens_per_minute"], row["has_tokens_per_minute"] or 0) for row in consumers)
    yield from _table(
        (
            *CONSUMER,
            ("", lambda row: _bar(row["need_tokens_per_minute"], row["has_tokens_per_minute"], top)),
            ("tokens/min", lambda row: short(row["need_tokens_per_minute"])),
            ("has", lambda row: short(row["has_tokens_per_minute"])),
            ("requests/min", lambda row: short(row["need_requests_per_minute"])),
            ("has", lambda row: short(row["has_requests_per_minute"])),
        ),
        consumers,
    )


def _bar(need: int, has: int | None, top: float) -> str:
    shade = "bad" if has is not None and need > has else "s0"
    bar = f'<div class="bar"><i class="{shade}" style="width:{_part(need, top)}%"></i>'
    if has is not None:
        bar += f'<u style="left:{_part(has, top)}%"></u>'
    return bar + "</div>"


def _part(value: float, top: float) -> str:
    return f"{100 * value / top:.1f}" if top else "0"


def _worst_minute(row: shown.Row) -> str:
    return f"{_time(row['worst_minute'])} ({row['in_worst_minute']:,})" if row["worst_minute"] else "–"


def _causes(row: shown.Row) -> str:
    causes = [f"{cause} {count:,}" for cause, count in row["by_cause"].items()]
    causes += [f"dry run: {cause} {count:,}" for cause, count in row["dry_run_by_cause"].items()]
    return _text(", ".join(causes))


def _titled(title: str, columns: Sequence[shown.Column], rows: Sequence[shown.Row]) -> Iterator[str]:
    """Write a table below its title; nothing without rows."""
    if rows:
        yield f"<h2>{title}</h2>"
        yield from _table(columns, rows)


def _table(columns: Sequence[shown.Column], rows: Sequence[shown.Row]) -> Iterator[str]:
    kinds = ["" if title in TEXTS else ' class="n"' for title, _ in columns]
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f"<th{kind}>{title}</th>" for kind, (title, _) in zip(kinds, columns, strict=True))
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = (f"<td{kind}>{cell(row)}</td>" for kind, (_, cell) in zip(kinds, columns, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _time(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else "–"
