"""What tokens cost, for usage records, reports and comparisons of prompts."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from aoai_gateway.config.fields import Amount, Count, Model, Name


class ProvisionedPrice(Model):
    """What a provisioned throughput unit (PTU) of a model does, and what it costs; from Azure's tables."""

    tokens_per_minute: Count
    """Input tokens per minute that one unit takes."""
    output_weight: Annotated[float, Field(gt=0)] = 4
    """How many input tokens one output token counts for."""
    hour: Amount
    """The price of one unit per hour."""
    smallest: Count = 15
    """Units of the smallest deployment."""
    step: Count = 5
    """Units by which a deployment grows."""


class Price(Model):
    """What a million tokens of a model cost, in dollars or another currency."""

    input: Amount
    """The price of a million tokens of the prompt."""
    output: Amount
    """The price of a million tokens of the answer, reasoning included."""
    cached_input: Amount | None = None
    """The price of a million cached tokens of the prompt; as `input` if not set."""
    cached_audio_input: Amount | None = None
    """The price of a million cached tokens of audio in the prompt; as `cached_input` if not set."""
    cache_write: Amount | None = None
    """The price of a million tokens that were put into the cache; as `input` if not set."""
    reasoning: Amount | None = None
    """The price of a million reasoning tokens; as `output` if not set."""
    audio_input: Amount | None = None
    """The price of a million tokens of audio in the prompt; as `input` if not set."""
    audio_output: Amount | None = None
    """The price of a million tokens of audio in the answer; as `output` if not set."""
    image_input: Amount | None = None
    """The price of a million tokens of images in the prompt; as `input` if not set."""
    image_output: Amount | None = None
    """The price of a million tokens of images that are made; as `output` if not set."""
    image: Amount | None = None
    """The price of one image that is made, beside its tokens, as some models report none."""
    audio_minute: Amount | None = None
    """The price of a minute that is transcribed or translated, beside its tokens, as some report none."""
    characters: Amount | None = None
    """The price of a million characters that are spoken, beside their tokens, as some report none."""
    tiers: Mapping[Name, Amount] = {}
    """By `service_tier` of the answer, the factor for all of it: `{flex: 0.5, priority: 1.75}`."""
    provisioned: ProvisionedPrice | None = None
    """The price of provisioned throughput, for the report's comparison."""

    def cost(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        *,
        cached_audio_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        input_audio_tokens: int = 0,
        output_audio_tokens: int = 0,
        input_image_tokens: int = 0,
        output_image_tokens: int = 0,
        images: int = 0,
        seconds: float = 0.0,
        characters: int = 0,
        tier: str | None = None,
    ) -> float:
        """Return what a call costs. All tokens but the first two are a part of those.

        ``images`` are those that were made, ``seconds`` those of audio that was heard, ``characters`` those
        that were spoken. Where parts are more than the whole, the whole is never counted below 0.
        """
        cached_audio = self.cached_input if self.cached_audio_input is None else self.cached_audio_input
        # What is both cached and audio is one of the two.
        heard = input_audio_tokens - (cached_audio_tokens if cached_audio is not None else 0)
        taken = _priced(
            input_tokens,
            self.input,
            (max(0, cached_tokens - cached_audio_tokens), self.cached_input),
            (cached_audio_tokens, cached_audio),
            (cache_write_tokens, self.cache_write),
            (max(0, heard), self.audio_input),
            (input_image_tokens, self.image_input),
        )
        given = _priced(
            output_tokens,
            self.output,
            (reasoning_tokens, self.reasoning),
            (output_audio_tokens, self.audio_output),
            (output_image_tokens, self.image_output),
        )
        told = taken + given + characters * (self.characters or 0)
        whole = images * (self.image or 0) + seconds / 60 * (self.audio_minute or 0)
        return (told / 1_000_000 + whole) * self.tiers.get(tier or "", 1.0)


def _priced(tokens: int, price: float, *parts: tuple[int, float | None]) -> float:
    """Price tokens of which some parts have a price of their own."""
    total = 0.0
    for part, own in parts:
        if own is not None:
            total += part * own
            tokens -= part
    return total + max(0, tokens) * price
