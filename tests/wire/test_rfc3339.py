"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.spans import rfc3339


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_764_417_600.9996, "2025-11-29T12:00:00.999Z"),
        (1_764_417_600.9999999, "2025-11-29T12:00:01.000Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
    ],
)
def test_parts_of_a_millisecond_are_cut_off(seconds: float, written: str) -> None:
    assert rfc3339(seconds, "milliseconds") == written
    assert rfc3339(seconds) == f"{written[:19]}Z"


@given(st.integers(0, 4_000_000_000_000_000))
def test_it_is_what_datetime_writes(micro: int) -> None:
    at = datetime.fromtimestamp(micro // 1_000_000, UTC).replace(microsecond=micro % 1_000_000)
    written = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert rfc3339(micro / 1_000_000, "milliseconds") == written
