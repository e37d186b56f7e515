"""The report for a terminal: 80 columns, or as many as there are."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis import shown
from aoai_gateway.wire.printing import cut, printable, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NARROWEST = 60

QUOTAS = {
    "tokens_per_minute": "tokens/min",
    "requests_per_minute": "requests/min",
    "tokens_per_day": "tokens/day",
    "tokens_per_month": "tokens/month",
}
"""Causes in fewer characters."""


FULL_COST = 1e7
"""A cost from which on its digits take more room than they tell."""


def text(report: dict[str, Any], width: int = 80, most: int = shown.MOST) -> str:
    """Write the report as lines of at most this width. ``most``: rows of each table; 0: all."""
    width = max(width, NARROWEST)
    return "\n".join(cut(line, width) for line in _lines(report, width, most)) + "\n"


def _lines(report: dict[str, Any], width: int, most: int) -> Iterator[str]:
    if not report["consumers"]:
        yield f"No records; {outside(report['left_out'])}" if report["left_out"] else "No records"
        yield from remarks(report, width)
        return
    totals = report["totals"]
    yield (
        f"{report['from'][:16]} to {report['to'][:16]} UTC, {counted(report['minutes'], 'minute')}, "
        f"{counted(report['records'], 'record')}"
    )
    cost = f", cost {money(totals['cost'])}" if totals["cost"] is not None else ""
    yield (
        f"{counted(totals['requests'], 'request')}: {totals['served']:,} served, "
        f"{totals['refused']:,} refused, {counted(totals['errors'], 'error')}, {totals['aborted']:,} aborted"
    )
    yield f"{short(totals['input_tokens'])} tokens in, {short(totals['output_tokens'])} out{cost}"
    yield from remarks(report, width)
    yield from wrap(shown.left_out(report, most), width)
    consumers = shown.consumers(report, most)
    yield from _section("Consumers", CONSUMERS, consumers.all, width)
    yield from _section("Times and shape", TIMES, consumers.rows, width)
    title = f"Quota per minute: need in {report['percentile']:g} % of minutes"
    yield from _section(title, NEEDS, shown.needs(report, most).rows, width)
    yield from _section("Throttled", THROTTLED, shown.throttled(report, most).all, width)
    yield from _section("Service tiers", SERVICE_TIERS, shown.service_tiers(report, most).all, width)
    yield from _section("Provisioned throughput, per month", PROVISIONED, report["provisioned"], width)


def counted(number: int, noun: str) -> str:
    """Write ``1 record`` or ``2,000 records``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def outside(count: int) -> str:
    """Say how many records were not wanted."""
    return f"{count:,} {'is' if count == 1 else 'are'} outside of what was asked for"


def remarks(document: Mapping[str, Any], width: int) -> Iterator[str]:
    """Say what was passed over, and what the records do not tell, in as many lines as that takes."""
    if said := document.get("passed_over"):
        yield from wrap(printable(f"Passed over: {said}"), width)
    for said in document.get("remarks", ()):
        yield from wrap(printable(said), width)


CONSUMER: Sequence[shown.Column] = (
    ("client", lambda row: row["client"]),
    ("deployment", lambda row: row["deployment"]),
)

CONSUMERS: Sequence[shown.Column] = (
    *CONSUMER,
    ("requests", lambda row: short(row["requests"])),
    ("429", lambda row: short(row["refused"])),
    ("in", lambda row: short(row["input_tokens"])),
    ("out", lambda row: short(row["output_tokens"])),
    ("TPM avg", lambda row: short(row["tpm_average"])),
    ("p95", lambda row: short(row["tpm_p95"])),
    ("peak", lambda row: short(row["tpm_peak"])),
    ("cost", lambda row: money(row["cost"])),
)

TIMES: Sequence[shown.Column] = (
    *CONSUMER,
    ("in:out", lambda row: ratio(row["prompt_per_completion"])),
    ("stream", lambda row: percent(row["streaming_share"])),
    ("RPM p95", lambda row: short(row["rpm_p95"])),
    ("p50", lambda row: span(row["duration_p50_ms"])),
    ("p95", lambda row: span(row["duration_p95_ms"])),
    ("ttft50", lambda row: span(row["first_token_p50_ms"])),
    ("ttft95", lambda row: span(row["first_token_p95_ms"])),
    ("spill", lambda row: percent(row["spill_share"])),
)

NEEDS: Sequence[shown.Column] = (
    *CONSUMER,
    ("tokens: need", lambda row: short(row["need_tokens_per_minute"])),
    ("has", lambda row: short(row["has_tokens_per_minute"])),
    ("requests: need", lambda row: short(row["need_requests_per_minute"])),
    ("has", lambda row: short(row["has_requests_per_minute"])),
    ("", lambda row: _verdict(row)),
)

THROTTLED: Sequence[shown.Column] = (
    *CONSUMER,
    ("429", lambda row: short(row["refused"])),
    ("of", lambda row: short(row["of"])),
    ("from", lambda row: _time(row["first"])),
    ("to", lambda row: _time(row["last"])),
    ("min", lambda row: short(row["minutes"])),
    ("why", lambda row: _causes(row)),
)

PROVISIONED: Sequence[shown.Column] = (
    ("deployment", lambda row: row["deployment"]),
    ("PTU", lambda row: str(row["units"])),
    ("load/min", lambda row: short(row["load_tokens_per_minute"])),
    ("used", lambda row: percent(row["utilisation"])),
    ("PTU cost", lambda row: f"{row['provisioned_cost_per_month']:,.0f}"),
    ("PAYG cost", lambda row: f"{row['payg_cost_per_month']:,.0f}"),
    ("cheaper", lambda row: _cheaper(row)),
)

SERVICE_TIERS: Sequence[shown.Column] = (
    *CONSUMER,
    ("asked for", lambda row: row["requested"] or "–"),
    ("served", lambda row: row["served"] or "–"),
    ("requests", lambda row: short(row["requests"])),
    ("in", lambda row: short(row["input_tokens"])),
    ("out", lambda row: short(row["output_tokens"])),
    ("cost", lambda row: money(row["cost"])),
)


def _verdict(row: shown.Row) -> str:
    need, has = row["need_tokens_per_minute"], row["has_tokens_per_minute"]
    if shown.needs_more(row):
        return "too little"
    return "half unused" if has is not None and need < has / 2 else ""


def _time(text: str | None) -> str:
    return text[5:16].replace("T", " ") if text else "–"


def _causes(row: shown.Row) -> str:
    why, tried = (
        ", ".join(f"{QUOTAS.get(cause, cause)} {count:,}" for cause, count in row[key].items())
        for key in ("by_cause", "dry_run_by_cause")
    )
    return "; ".join(filter(None, (why, f"dry run: {tried}" if tried else "")))


def _cheaper(row: shown.Row) -> str:
    return "PTU" if row["provisioned_cost_per_month"] < row["payg_cost_per_month"] else "PAYG"


def _section(title: str, of: Sequence[shown.Column], rows: Sequence[shown.Row], width: int) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from columns(
            [[name for name, _ in of], *([cell(row) for _, cell in of] for row in rows)], width
        )


def columns(table: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lay a table out: names to the left, and cut where there is no room; figures to the right."""
    table = [[printable(cell) for cell in row] for row in table]
    widths = [max(width_of(row[n]) for row in table) for n in range(len(table[0]))]
    texts = [n for n, name in enumerate(table[0]) if name in ("client", "deployment", "why", "")]
    spare = width - sum(widths) - (len(widths) - 1)
    while spare < 0:
        longest = max(texts, key=lambda n: widths[n])
        if widths[longest] <= 6:
            break
        widths[longest] -= 1
        spare += 1
    for row in table:
        laid = (_laid(cell, widths[n], to_the_left=n in texts) for n, cell in enumerate(row))
        yield cut(" ".join(laid).rstrip(), width)


def _laid(cell: str, width: int, *, to_the_left: bool) -> str:
    shown = cut(cell, width)
    blank = " " * (width - width_of(shown))
    return shown + blank if to_the_left else blank + shown


def short(number: float | None) -> str:
    """Write a number in few characters: ``12.3k``."""
    if number is None:
        return "–"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            digits = ".3g" if abs(number) < 999.5 * limit else ".0f"
            return f"{number / limit:{digits}}{unit}"
    return f"{number:.3g}" if number != int(number) else f"{int(number)}"


def money(amount: float | None) -> str:
    """Write a cost: ``1,234.50``, or ``12.3M``. What is too little for that is not nothing: ``<0.01``."""
    if amount is None:
        return "–"
    if amount >= FULL_COST:
        return short(amount)
    return "<0.01" if 0 < amount < 0.005 else f"{amount:,.2f}"


def percent(share: float | None) -> str:
    """Write a share: ``12 %``."""
    return "–" if share is None else f"{100 * share:.0f}%"


def ratio(share: float | None) -> str:
    """Write how many times as much: ``2.5``."""
    return "–" if share is None else f"{share:.1f}"


def span(milliseconds: float | None) -> str:
    """Write a time: ``1.2s``."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    return f"{milliseconds / 1000:.1f}s" if milliseconds < 100_000 else f"{milliseconds / 1000:.0f}s"
