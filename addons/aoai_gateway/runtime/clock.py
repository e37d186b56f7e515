"""The clock of a gateway, which tests turn by hand."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two times in seconds; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the time that never jumps."""

    def time(self) -> float:
        """Return the time since the epoch."""
