"""Times as text, where programs read them: RFC 3339, in UTC, with a Z."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal


def rfc3339(seconds: float, timespec: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """Write a time, in seconds since the epoch. Parts of a second that are not written are cut off."""
    second, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    if timespec == "seconds":
        return f"{_to_the_second(second)}Z"
    # The thousand in front keeps its zeros, in half of the time of a format.
    return f"{_to_the_second(second)}.{str(1000 + micro // 1000)[1:]}Z"


@lru_cache(64)
def _to_the_second(second: int) -> str:
    # Many times that are written are of the same second.
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
