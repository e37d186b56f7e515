"""Corrections of estimates, learned from returned usage.

Some counts are systematically off: bytes instead of tokens, another vendor's tokenizer, framing that
is not published. The service returns the true number with every answer, so a deployment's next estimate
can be scaled by the error of the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aoai_gateway.tokens.counting import Count

WEIGHT = 0.1
"""The weight of the newest observation, in an exponentially weighted moving average."""
LOWEST, HIGHEST = 0.25, 4.0
"""Bounds of every observation, and so of the ratio: one odd answer must not lift or lower a quota much."""
SMALLEST_SAMPLE = 32
"""Tokens below which an estimate is mostly framing and shows little about text."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Ratio of true to estimated tokens of one deployment, per way of counting; a value, never changed.

    Per way (`Count.encoding`), because bytes and another model's encoding err differently, and a
    gateway changes from one to the other while it runs.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)

    def learned(self, count: Count, actual_tokens: int) -> Correction:
        """After an answer: `count` as made for that request (uncorrected), usage's prompt tokens.

        An exact count, a partial one (the service counted context that we never saw) and a tiny one
        teach nothing.
        """
        if count.exact or count.partial or min(count.tokens, actual_tokens) < SMALLEST_SAMPLE:
            return self
        observed = min(max(actual_tokens / count.tokens, LOWEST), HIGHEST)
        before = self.ratios.get(count.encoding, 1.0)
        return Correction({**self.ratios, count.encoding: before + WEIGHT * (observed - before)})

    def tokens(self, count: Count) -> int:
        """The corrected number; an exact count stays what it is."""
        if count.exact:
            return count.tokens
        return round(count.tokens * self.ratios.get(count.encoding, 1.0))
