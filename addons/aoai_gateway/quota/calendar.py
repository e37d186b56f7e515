"""Token budgets of a UTC calendar day or month: periods, and the tokens spent in each.

A call counts in the period in which it was admitted. Its use beyond its reservation counts
in the period in which that becomes known. A new period starts with nothing spent, even after an
overspent one.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

Calendar = Literal["day", "month"]


class Period(NamedTuple):
    """One day ("2026-02-28") or month ("2026-02") in UTC."""

    calendar: Calendar
    name: str


def is_period(of: Period) -> bool:
    """Whether there is such a day or month, written so."""
    try:
        day = date.fromisoformat(of.name if of.calendar == "day" else f"{of.name}-01").isoformat()
    except ValueError:
        return False
    return of.name == (day if of.calendar == "day" else day[:7])


@dataclass(frozen=True, slots=True)
class Tally:
    """Tokens of one period: settled (used), and reserved by calls that have not ended."""

    settled: int = 0
    reserved: int = 0

    @property
    def spent(self) -> int:
        """The tokens that count against the budget."""
        return self.settled + self.reserved


def period(calendar: Calendar, now: int) -> Period:
    """Return the period that `now` (Unix time, µs) lies in."""
    day = datetime.fromtimestamp(now // 1_000_000, UTC).date().isoformat()
    return Period(calendar, day if calendar == "day" else day[:7])


def ends_in(calendar: Calendar, now: int) -> int:
    """Microseconds from `now` (Unix time, µs) until the next period starts."""
    at = datetime.fromtimestamp(now // 1_000_000, UTC)
    if calendar == "day":
        return 86_400_000_000 - now % 86_400_000_000
    start = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) * 1_000_000 - now
