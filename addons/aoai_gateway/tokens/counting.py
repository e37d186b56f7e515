"""The count itself, which the engine asks for at admission and at settlement, and what corrects it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.tokens.bodies import read_messages, read_prompt
from aoai_gateway.tokens.models import Family, family_of
from aoai_gateway.tokens.ranks import Encodings
from aoai_gateway.tokens.text import count_sample, count_texts, estimate, sample

if TYPE_CHECKING:
    from tiktoken import Encoding

    from aoai_gateway.tokens.prompt import Prompt
    from aoai_gateway.wire.delivered import Delivered

ESTIMATE = "estimate"
"""`Count.encoding` when no encoding was there and bytes were counted."""

EVENT_LOOP_BODY_BYTES = 16 * 1024
"""Counting a body of this size takes about 1 ms and, measured, below 10 ms for the worst one known; a larger
one goes to a thread, where tiktoken releases the GIL."""

_SAMPLE_PIECES = 16
"""Small pieces of a text that only a small sample may be taken of: its parts may differ."""

BYTES_PER_TOKEN = 4
"""The estimate for an answer's text of which only the length is known."""


@dataclass(slots=True)
class Count:
    """How many tokens, and how far to trust it. Never changed.

    `exact`: the model's own encoding over the whole text, and published framing; everything else is an
    estimate, for `Correction` to improve. `encoding`: the encoding that counted the text, `ESTIMATE` without
    one. `partial`: a lower bound, since the request refers to context that the service keeps.
    """

    tokens: int
    exact: bool
    encoding: str
    partial: bool = False


class Counter:
    """Counts with the encodings it has, which may be none yet.

    `encodings` may be replaced at any time, from any thread: `counter.encodings = load_encodings()`.
    No method raises for the content of a request, or keeps any of it. Time is bounded by the exact
    limits in `text`, plus one walk over the body.

    Without encodings, texts are estimated; `scale` is what their estimates are multiplied by.
    """

    def __init__(self, encodings: Encodings | None = None, *, scale: float = 1.0) -> None:
        self.encodings = encodings or Encodings()
        self._scale = scale

    def __repr__(self) -> str:
        return f"Counter({self.encodings!r})"

    def count_request(self, operation_name: str, body: Mapping[str, Any], model: str | None) -> Count:
        """Prompt tokens of a decoded body; `model` is the base model, None if unknown."""
        return self.count_prompt(read_prompt(operation_name, body, family_of(model)))

    def count_prompt(self, prompt: Prompt) -> Count:
        """Tokens of a prompt that was read elsewhere."""
        counted = self._count_condensed(prompt)
        return Count(
            prompt.tokens + counted.tokens, prompt.exact and counted.exact, counted.encoding, prompt.partial
        )

    def count_messages(
        self, operation_name: str, body: Mapping[str, Any], model: str | None, *, at_most: int
    ) -> list[Count]:
        """Tokens of each message of a chat, or item of a Responses input, with its framing; in order.

        Their sum is less than `count_request` of the body: that has tools and the reply's priming as well.
        Empty for other operations. Of many messages only the first ``at_most`` are counted.
        """
        return list(map(self.count_prompt, read_messages(operation_name, body, family_of(model), at_most)))

    def scale(self, operation_name: str, body: Mapping[str, Any], model: str | None, *, chars: int) -> float:
        """Return the tokens for each one that is estimated without an encoding, by a sample of the texts.

        ``chars``: how large the sample may be. 1 without an encoding.
        """
        family = family_of(model)
        encoding = self._encoding(family)
        taken = sample(
            read_prompt(operation_name, body, family).texts, chars, max(1, chars // _SAMPLE_PIECES)
        )
        estimated = sum(map(estimate, taken))
        if encoding is None or not estimated:
            return 1.0
        return count_texts(encoding, taken).tokens / estimated

    def count_text(self, text: str, model: str | None) -> Count:
        """Tokens of a text on its own."""
        return self._count([text] if text else [], family_of(model))

    def count_delivered(self, delivered: Delivered, model: str | None) -> Count:
        """Return the tokens of an answer; the part that was not kept counts by the ratio of the rest."""
        counted = self.count_text(delivered.text(), model)
        if not delivered.beyond:
            return counted
        ratio = counted.tokens / delivered.kept_bytes if delivered.kept_bytes else 1 / BYTES_PER_TOKEN
        return Count(counted.tokens + math.ceil(delivered.beyond * ratio), False, counted.encoding)

    @staticmethod
    def estimate_delivered(delivered: Delivered) -> Count:
        """Return an estimate of the tokens of an answer by its bytes, which takes no time."""
        size = delivered.kept_bytes + delivered.beyond
        return Count(math.ceil(size / BYTES_PER_TOKEN), False, ESTIMATE)

    def _count_condensed(self, prompt: Prompt) -> Count:
        if prompt.chars is None:
            return self._count(prompt.texts, prompt.family)
        encoding = self._encoding(prompt.family)
        if encoding is None:
            return Count(prompt.estimated, False, ESTIMATE)
        return Count(count_sample(encoding, prompt.texts, prompt.chars), False, encoding.name)

    def _count(self, texts: list[str], family: Family) -> Count:
        encoding = self._encoding(family)
        tokens, exact = count_texts(encoding, texts)
        if encoding is None:
            return Count(round(tokens * self._scale), exact, ESTIMATE)
        own = family.known and family.encoding_published and encoding.name == family.encoding
        return Count(tokens, exact and (own or not texts), encoding.name)

    def _encoding(self, family: Family) -> Encoding | None:
        """The family's encoding; if just that one is missing, another is still nearer than bytes."""
        by_name = self.encodings.by_name
        return by_name.get(family.encoding) or next(iter(by_name.values()), None)


def cost_hint(body_bytes: int) -> bool:
    """Whether a body of that many bytes is small enough to be counted on the event loop."""
    return body_bytes <= EVENT_LOOP_BODY_BYTES


WEIGHT = 0.1
"""The weight of the newest observation, in an exponentially weighted moving average."""
LOWEST, HIGHEST = 0.25, 4.0
"""Bounds of every observation, and so of the ratio: one odd answer must not lift or lower a quota much."""
SMALLEST_SAMPLE = 32
"""Tokens below which an estimate is mostly framing and shows little about text."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Ratio of true to estimated tokens of one deployment, per way of counting; a value, never changed.

    Some counts are systematically off: bytes instead of tokens, another vendor's tokenizer, framing that is
    not published. Answers tell the true number, so the next estimate is scaled by the error of the last ones.
    Per way (`Count.encoding`), because each errs differently, and a gateway changes from one to the other.
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
