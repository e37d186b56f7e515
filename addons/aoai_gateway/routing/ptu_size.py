"""How large a provisioned deployment is, learned from its own figures.

A provisioned deployment is a bucket that drains its whole size in a minute. No header names the size, but two
levels show it (from utilisation headers, or from a refusal's time until it is below 100 %), with the tokens
that were poured in between:

    level now = level then + tokens / size - seconds / 60

So each pair of levels gives a size. The pairs are added up, with old ones fading, since a single one can be
off: calls reach the deployment in another order than they were sent, and figures are rounded. What other
callers pour in looks like slower draining; the size that is learned is the part of it that is left for us.
"""

from __future__ import annotations

FADE = 0.95
"""The factor of the earlier pairs' weight with each new one."""

SHORTEST = 0.25
"""Seconds between two levels, below which a pair shows too little."""

LOWEST_LEVEL = 0.02
"""At or below this the bucket may have been empty in between: then less drained than the time suggests."""

ENOUGH = 0.02
"""The minutes of draining that the pairs must have seen before a size is believed."""


class PtuSize:
    """The size of one deployment, in tokens per minute. Times are seconds on any monotonic clock."""

    def __init__(self) -> None:
        self._last: tuple[float, float, int] | None = None
        self._tokens = 0.0
        self._minutes = 0.0

    @property
    def tokens_per_minute(self) -> int | None:
        """The size, once it is known."""
        if self._minutes < ENOUGH or self._tokens <= 0:
            return None
        return max(1, round(self._tokens / self._minutes))

    def observe(self, level: float, poured: int, at: float) -> None:
        """Take in a level (1.0 is full) of a time, and all tokens that were ever poured in by then."""
        last = self._last
        if last is not None and at - last[0] < SHORTEST:
            return
        self._last = (at, level, poured)
        if last is None or min(level, last[1]) <= LOWEST_LEVEL:
            return
        seconds, risen, tokens = at - last[0], level - last[1], poured - last[2]
        drained = risen + seconds / 60
        if tokens < 0 or drained <= 0:
            # More was given back than poured in, or the figures are of different moments.
            return
        self._tokens = FADE * self._tokens + tokens
        self._minutes = FADE * self._minutes + drained
