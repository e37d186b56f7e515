"""Token budgets of a UTC calendar day or month: periods, and the tokens spent in each.

A call counts in the period in which it was admitted. Its use beyond its reservation counts
in the period in which that becomes known. A new period starts with nothing spent, even after an
overspent one.
"""

from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

Calendar = Literal["day", "month"]

_DAY = 86_400_000_000
_FIRST_DAY = date(1970, 1, 1).toordinal()


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


class Tally(NamedTuple):
    """Tokens of one period: settled (used), and reserved by calls that have not ended."""

    settled: int = 0
    reserved: int = 0

    @property
    def spent(self) -> int:
        """The tokens that count against the budget."""
        return self.settled + self.reserved


def period(calendar: Calendar, now: int) -> Period:
    """Return the period that `now` (Unix time, µs) lies in."""
    return _period(calendar, now // _DAY)


@lru_cache(maxsize=16)
def _period(calendar: Calendar, day_number: int) -> Period:
    day = date.fromordinal(_FIRST_DAY + day_number).isoformat()
    return Period(calendar, day if calendar == "day" else day[:7])


def ends_in(calendar: Calendar, now: int) -> int:
    """Microseconds from `now` (Unix time, µs) until the next period starts."""
    if calendar == "day":
        return _DAY - now % _DAY
    at = datetime.fromtimestamp(now // 1_000_000, UTC)
    start = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) * 1_000_000 - now
