"""Which rows of a report people are shown: the first ones, and all others together in one.

Clients may be counted in their tens of thousands, and no reader gets through as many lines. CSV and JSON hold
all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST = 50
"""Rows of a table, if nothing else is asked for."""

type Row = Mapping[str, Any]

type Column = tuple[str, Callable[[Row], str]]
"""A title, and what writes a row's cell."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of a table. Of ``others`` there are sums, and no figure that cannot be summed (null)."""

    rows: Sequence[Row]
    others: Row | None

    @property
    def all(self) -> Sequence[Row]:
        """The rows, and that of the others last."""
        return self.rows if self.others is None else [*self.rows, self.others]


def consumers(report: Row, most: int) -> Shown:
    """Return the largest consumers, by tokens."""
    sums = ("requests", "refused", "input_tokens", "output_tokens", "tpm_average", "cost")
    return _shown(report["consumers"], most, sums)


def needs(report: Row, most: int) -> Shown:
    """Return the consumers that need more than they have, and then the largest ones."""
    rows = sorted(report["consumers"], key=lambda row: not needs_more(row))
    return Shown(rows[:most] if most else rows, None)


def throttled(report: Row, most: int) -> Shown:
    """Return the consumers that got the most 429s."""
    return _shown(report["throttled"], most, ("refused", "of"), ("by_cause", "dry_run_by_cause"))


def service_tiers(report: Row, most: int) -> Shown:
    """Return the consumers' service tiers; those with the most requests, if not all."""
    sums = ("requests", "input_tokens", "output_tokens", "cost")
    rows = report["service_tiers"]
    if most and len(rows) > most:
        rows = sorted(rows, key=lambda row: -row["requests"])
    return _shown(rows, most, sums)


def needs_more(row: Row) -> bool:
    """Whether a consumer needs more tokens or requests per minute than the configuration gives it."""
    return any(
        row[f"has_{what}"] is not None and row[f"need_{what}"] > row[f"has_{what}"]
        for what in ("tokens_per_minute", "requests_per_minute")
    )


def left_out(report: Row, most: int) -> str:
    """Say how many consumers have no line of their own, and where they are; empty if all have one."""
    count = len(report["consumers"])
    if not most or count <= most:
        return ""
    return (
        f"{most:,} of {count:,} consumers have a line of their own; --format csv and json hold all, "
        "and --top N shows more"
    )


def _shown(rows: Sequence[Row], most: int, sums: Sequence[str], by_cause: Sequence[str] = ()) -> Shown:
    """``sums``: figures that others have together; ``by_cause``: such figures by cause."""
    if not most or len(rows) <= most:
        return Shown(rows, None)
    first, rest = rows[:most], rows[most:]
    others: dict[str, Any] = dict.fromkeys(rest[0])
    others |= {"client": f"{len(rest):,} more", "deployment": ""}
    for name in sums:
        told = [row[name] for row in rest if row[name] is not None]
        others[name] = sum(told) if told else None
    for name in by_cause:
        found: dict[str, int] = {}
        for row in rest:
            for cause, count in row[name].items():
                found[cause] = found.get(cause, 0) + count
        others[name] = found
    return Shown(first, others)
