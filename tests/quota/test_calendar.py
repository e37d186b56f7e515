"""Calendar periods in UTC."""

from datetime import UTC, datetime

import pytest

from aoai_gateway.quota.calendar import Period, ends_in, period
from aoai_gateway.quota.window import microseconds


@pytest.mark.parametrize(
    ("at", "day", "month", "day_ends", "month_ends"),
    [
        ("2026-02-28T23:59:59", "2026-02-28", "2026-02", 1, 1),
        ("2028-02-28T23:59:59", "2028-02-28", "2028-02", 1, 86_401),
        ("2026-12-31T00:00:00", "2026-12-31", "2026-12", 86_400, 86_400),
        ("2026-12-01T12:00:00", "2026-12-01", "2026-12", 43_200, 30.5 * 86_400),
        ("2100-02-28T00:00:00", "2100-02-28", "2100-02", 86_400, 86_400),
    ],
)
def test_periods_are_those_of_the_utc_calendar(at, day, month, day_ends, month_ends):
    now = microseconds(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())
    assert period("day", now) == Period("day", day)
    assert period("month", now) == Period("month", month)
    assert ends_in("day", now) == microseconds(day_ends)
    assert ends_in("month", now) == microseconds(month_ends)
