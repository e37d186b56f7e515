"""Times as text, where programs read them: RFC 3339, in UTC, with a Z."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def rfc3339(seconds: float, timespec: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """Write a time, in seconds since the epoch. Parts of a second that are not written are cut off."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
