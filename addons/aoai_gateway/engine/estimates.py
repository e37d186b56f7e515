"""How many tokens a call takes, as far as that can be told before it is answered.

Its prompt's tokens were counted; how far such counts are off, the usage of earlier answers has taught. Its
completion takes at most what the client bounds it to, or what its model can write at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.bounded import Recent
from aoai_gateway.engine import media
from aoai_gateway.engine.timeouts import LARGEST_BOUND, answers, completion_bound
from aoai_gateway.tokens import Correction
from aoai_gateway.tokens.models import most_output_tokens
from aoai_gateway.wire.operation import Cost
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, RESPONSES

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call

DEFAULT_COMPLETION = 512
"""Tokens that usually suffice for a completion without a bound."""

MOST_DEPLOYMENTS = 10_000
"""The one unused for longest is forgotten: where every deployment is known, clients make up the names."""


class Estimates:
    """What the answers of a gateway have taught about its deployments. All amounts are tokens."""

    def __init__(self) -> None:
        self._corrections: Recent[Correction] = Recent(MOST_DEPLOYMENTS)
        self._models: Recent[str] = Recent(MOST_DEPLOYMENTS)
        """The base model of each deployment, as its answers named it."""

    def learn(self, call: Call) -> None:
        """Take from a call that has ended what its answer says of its deployment."""
        if call.prompt is not None and not call.prompt.exact and call.usage is not None:
            before = self._corrections.get(call.deployment) or Correction()
            self._corrections.put(call.deployment, before.learned(call.prompt, call.usage.input_tokens))
        if call.model is None or call.target.operation.prompt_form == "responses":
            # In the Responses API, Azure names the deployment there.
            return
        if call.setup.config.model_of(call.deployment) is None:
            self._models.put(call.deployment, call.model)

    def model(self, call: Call) -> str | None:
        """Return the base model, as far as it is known."""
        return call.setup.config.model_of(call.deployment) or self._models.get(call.deployment)

    def prompt_tokens(self, call: Call) -> int:
        """Return the tokens of a call's prompt; 0 if they were not counted."""
        if call.prompt is None:
            return 0
        if call.prompt.exact:
            return call.prompt.tokens
        return (self._corrections.get(call.deployment) or Correction()).tokens(call.prompt)

    def least(self, call: Call) -> int:
        """Return the tokens that a call takes, if nothing says how long its answer is: usually enough."""
        return self.prompt_tokens(call) + completion_tokens(call)

    def most(self, call: Call) -> int:
        """Return the tokens that a call can take."""
        if call.target.operation not in (CHAT_COMPLETIONS, RESPONSES):
            return self.least(call)
        bound = completion_bound(call)
        if bound is None:
            bound = min(most_output_tokens(self.model(call)) * answers(call), LARGEST_BOUND)
        return self.prompt_tokens(call) + bound


def completion_tokens(call: Call) -> int:
    """Return the tokens that are booked for a call's completion."""
    if media.makes_images(call):
        assert call.body is not None
        return media.image_tokens(call.body)
    bound = completion_bound(call)
    return min(DEFAULT_COMPLETION * answers(call), LARGEST_BOUND) if bound is None else bound


def costs(call: Call) -> bool:
    """Whether a call of its kind costs tokens at all."""
    return call.target.operation.cost is not Cost.NONE
