"""What tokens cost, for those who compare what prompts cost."""

from aoai_gateway.config.fields import Amount
from aoai_gateway.config.model import Model


class Price(Model):
    """What a million tokens of a model cost, in dollars or whatever one reckons in."""

    input: Amount
    """The price of a million tokens of the prompt."""
    output: Amount
    """The price of a million tokens of the answer, reasoning included."""
    cached_input: Amount | None = None
    """The price of a million cached tokens of the prompt; as `input` if not set."""

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """Return what a call costs; cached tokens are a part of the input."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        fresh = max(0, input_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * cached_price + output_tokens * self.output) / 1_000_000
