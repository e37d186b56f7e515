"""How full a provisioned deployment is thought to be, a leaky bucket, and how large it is.

The bucket counts the calls of this process, and is corrected by the deployment's own figures. Its size is
learned from these, where it is not declared.

A provisioned deployment is a bucket that drains its whole size in a minute. No header names the size, but two
levels show it (from utilisation headers, or from a refusal's time until it is below 100 %), with the tokens
that were poured in between:

    level now = level then + tokens / size - seconds / 60

So each pair of levels gives a size. The pairs are added up, with old ones fading, since a single one can be
off: calls reach the deployment in another order than they were sent, and figures are rounded. What other
callers pour in looks like slower draining; the size that is learned is the part of it that is left for us.

Times are seconds on any monotonic clock.
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


class Bucket:
    """A leaky bucket that holds one minute's tokens and drains as many per minute.

    Its level is a share: 1.0 is full, and more is possible, since a call of any size is
    admitted while it is not full.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0
        self.poured = 0.0
        """All that was ever poured in."""

    def level(self, now: float) -> float:
        """How full it is."""
        if now > self._at:
            self._level = max(0.0, self._level - (now - self._at) / 60)
            self._at = now
        return self._level

    def pour(self, share: float, now: float) -> None:
        """Put something in; a negative share takes out what had been put in too much."""
        self._level = max(0.0, self.level(now) + share)
        self.poured += share

    def correct(self, told: float, at: float, poured: float, now: float) -> None:
        """Take in the level that the backend had at a time, when so much had been `poured`.

        A higher one is believed at once. A lower one by half: such figures lag behind.
        """
        told = max(0.0, told - max(0.0, now - at) / 60) + self.poured - poured
        level = self.level(now)
        self._level = max(0.0, told if told >= level else (told + level) / 2)

    def when(self, room: float, now: float) -> float:
        """Seconds until it is not above `room`, if nothing else comes."""
        return max(0.0, (self.level(now) - room) * 60)


class PtuSize:
    """The size of one deployment, in tokens per minute."""

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
