"""What tokens cost, for usage records, reports and those who compare what prompts cost."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from aoai_gateway.config.endpoints import Model
from aoai_gateway.config.fields import Amount, Count, Name


class ProvisionedPrice(Model):
    """What a provisioned throughput unit (PTU) of a model does, and what it costs; from Azure's tables."""

    tokens_per_minute: Count
    """Input tokens per minute that one unit takes."""
    output_weight: Annotated[float, Field(gt=0)] = 4
    """How many input tokens one output token counts for."""
    hour: Amount
    """Of one unit."""
    smallest: Count = 15
    """Units of the smallest deployment."""
    step: Count = 5
    """Units by which a deployment grows."""


class Price(Model):
    """What a million tokens of a model cost, in dollars or whatever one reckons in."""

    input: Amount
    """Of the prompt."""
    output: Amount
    """Of the answer, reasoning included."""
    cached_input: Amount | None = None
    """Of the part of a prompt that the cache held; as input if absent."""
    cache_write: Amount | None = None
    """Of the part of a prompt that was put into the cache; as input if absent."""
    reasoning: Amount | None = None
    """Of reasoning tokens; as output if absent."""
    audio_input: Amount | None = None
    """Of audio in the prompt; as input if absent."""
    audio_output: Amount | None = None
    """Of audio in the answer; as output if absent."""
    tiers: Mapping[Name, Amount] = {}
    """By service tier (flex, priority, …), what all of it is multiplied by; 1 for others."""
    provisioned: ProvisionedPrice | None = None
    """What provisioned throughput costs instead, for the report's comparison."""

    def cost(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        *,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        input_audio_tokens: int = 0,
        output_audio_tokens: int = 0,
        tier: str | None = None,
    ) -> float:
        """Return what a call costs. All tokens but the first two are a part of those.

        Where parts are more than the whole, the whole is never counted below 0.
        """
        taken = _priced(
            input_tokens,
            self.input,
            (cached_tokens, self.cached_input),
            (cache_write_tokens, self.cache_write),
            (input_audio_tokens, self.audio_input),
        )
        given = _priced(
            output_tokens,
            self.output,
            (reasoning_tokens, self.reasoning),
            (output_audio_tokens, self.audio_output),
        )
        return (taken + given) * self.tiers.get(tier or "", 1.0) / 1_000_000


def _priced(tokens: int, price: float, *parts: tuple[int, float | None]) -> float:
    """Price tokens of which some parts have a price of their own."""
    total = 0.0
    for part, own in parts:
        if own is not None:
            total += part * own
            tokens -= part
    return total + max(0, tokens) * price
