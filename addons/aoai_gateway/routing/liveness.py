"""Whether a backend still gives signs of life.

A backend that hangs refuses nothing: every call that is sent to it is lost until its own deadline has passed,
and for an answer that is no stream that is minutes. But its calls are evidence for each other. When nothing
at all has come from a backend, on any connection, for longer than two of its calls can plausibly have waited
for their first byte, then it is not these calls that are slow.

Before that, a backend is doubtful: nothing has come from it since two calls were sent, and one of them waits
for longer than the slowest one lately. These calls are not given up; further ones are better sent elsewhere.

One call alone never makes a backend silent: it may think for long, and sending it again would be billed
twice. A backend that was found to be silent stays so until something is heard of it, so a single probe is
enough to find that it still is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGER = 2.0
"""How many times longer than the slowest one lately a call waits before it counts as evidence."""

LONGER_IN_SILENCE = 1.2
"""How many times longer, at a backend that is silent."""

SHORTEST = 2.0
"""Seconds of silence that mean nothing, however fast the backend was."""

WITNESSES = 2
"""How many calls must wait in vain before the backend, and not the call, is the cause."""

AGAIN_SECONDS = 0.25
"""How soon to ask again, when nothing better is known."""


@dataclass(slots=True)
class _Pending:
    sent: float
    within: float | None
    """Seconds in which the slowest one lately had its first byte; None: nothing is known."""


class Liveness:
    """One backend's signs of life. ``heard``: when something last came from it (the caller's clock).

    ``whole``: those of the endpoint that it is at. When that is silent, so is each backend there.
    """

    __slots__ = ("_pending", "_whole", "heard", "silent")

    def __init__(self, whole: Liveness | None = None) -> None:
        self._whole = whole
        self.heard = -math.inf
        self.silent = False
        self._pending: dict[str, _Pending] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return self.silent or bool(self._pending)

    @property
    def whole_silent(self) -> bool:
        """Whether all of its endpoint was found to be silent, too."""
        return self._whole is not None and self._whole.silent

    def sent(self, call_id: str, now: float, within: float | None) -> None:
        """Note that a call is sent, which should have its first byte within so many seconds."""
        self._pending[call_id] = pending = _Pending(now, within)
        if self._whole is not None:
            self._whole._pending[call_id] = pending

    def ended(self, call_id: str) -> None:
        """Note that nothing more is expected for a call."""
        self._pending.pop(call_id, None)
        if self._whole is not None:
            self._whole.ended(call_id)

    def hear(self, now: float) -> None:
        """Note that bytes of any kind came. In virtual time, ``now`` may be when a stream will end."""
        self.heard = max(now, self.heard)
        self.silent = False
        if self._whole is not None:
            self._whole.heard = max(now, self._whole.heard)
            self._whole.silent = False

    def is_lost(self, call_id: str, now: float) -> bool:
        """Whether it is no use to wait for a call any longer."""
        # Both are asked: each remembers what it finds.
        lost = self._is_lost(call_id, now)
        return (self._whole is not None and self._whole.is_lost(call_id, now)) or lost

    def _is_lost(self, call_id: str, now: float) -> bool:
        if self.silent and self.heard > min((p.sent for p in self._pending.values()), default=math.inf):
            self.silent = False
        if not self.silent:
            witnesses = sum(self._waits_in_vain(each, LONGER, now) for each in self._pending.values())
            self.silent = witnesses >= WITNESSES
        pending = self._pending.get(call_id)
        return self.silent and pending is not None and self._waits_in_vain(pending, LONGER_IN_SILENCE, now)

    def is_doubtful(self, now: float) -> bool:
        """Whether nothing has come since calls were sent, and one waits longer than the slowest one lately.

        It is too early to give any of them up, but others are better sent elsewhere, where there is room. A
        stream that pauses, or whose client reads slowly, was sent earlier, and says nothing.
        """
        if now - self.heard < SHORTEST or len(self._pending) < WITNESSES:
            return False
        since = [each for each in self._pending.values() if each.sent >= self.heard]
        return len(since) >= WITNESSES and any(
            self._waits_in_vain(each, LONGER_IN_SILENCE, now) for each in since
        )

    def ask_again(self, call_id: str, now: float) -> float:
        """Return the time at which to ask next whether a call is lost; infinite if nothing is known of it."""
        pending = self._pending.get(call_id)
        if pending is None or pending.within is None:
            return math.inf
        factor = LONGER_IN_SILENCE if self.silent else LONGER
        due = max(pending.sent, self.heard) + max(SHORTEST, factor * pending.within)
        if self._whole is not None:
            due = min(due, self._whole.ask_again(call_id, now))
        return max(due, now + AGAIN_SECONDS)

    def _waits_in_vain(self, pending: _Pending, factor: float, now: float) -> bool:
        if pending.within is None:
            return False
        return now - max(pending.sent, self.heard) >= max(SHORTEST, factor * pending.within) - 1e-6
