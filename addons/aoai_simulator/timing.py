"""When the frames of a stream are due."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aoai_simulator.replies import Frames


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of a deployment, all in seconds.

    `tokens_per_second` 0 is instant. `burst` is how long tokens are collected before they are sent
    together; Azure's content filter makes bursts of about two seconds. With 0 every frame is written
    on its own.
    """

    first_token: float
    tokens_per_second: float
    burst: float = 0.02

    def whole(self, tokens: int) -> float:
        """When an answer that is not streamed is ready."""
        return self.first_token + (
            max(0, tokens - 1) / self.tokens_per_second if self.tokens_per_second else 0
        )

    def schedule(self, frames: Frames) -> Iterator[tuple[float, int]]:
        """Pairs (at, upto), in order: at `at` seconds after the request, `frames[:upto]` are due."""
        total = len(frames.frames)
        if frames.early:
            yield 0.0, frames.early
        if not self.burst:
            for position in range(frames.early, total):
                yield self._due(position, frames), position + 1
            return
        step = 0
        sent = frames.early
        while sent < total:
            limit = step * self.burst
            # The last token ends its burst: nothing more would be collected.
            end = self._due(frames.last - 1, frames) - self.first_token
            due = total if limit >= end else frames.first + 1 + math.floor(limit * self.tokens_per_second)
            if due > sent:
                yield self.first_token + min(limit, max(0.0, end)), due
                sent = due
            step += 1

    def _due(self, position: int, frames: Frames) -> float:
        tokens = min(max(position, frames.first), frames.last - 1) - frames.first
        if tokens <= 0 or not self.tokens_per_second:
            return self.first_token
        return self.first_token + tokens / self.tokens_per_second
