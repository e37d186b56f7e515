"""What a prompt takes before it is sent: its tokens, and their price at each place where it is to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.workbench.count_jobs import CountPrompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.config.models import Config
    from aoai_gateway.workbench.counting import Counting

MOST_BYTES = 256 * 1024
"""Of a body that is counted while it is edited: that is to take no longer than a pause of its edits."""


async def counts(
    counting: Counting, config: Config | None, operation: str, body: bytes, places: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the ``tokens`` and the ``cost`` of a prompt for each place; nothing of a large one.

    ``exact``: whether the tokens are counted as the model counts them. ``cost`` is in the currency of
    ``prices``, and None where the deployment has no price.
    """
    deployments = {place: place.partition("@")[0] for place in places}
    if len(body) > MOST_BYTES or not deployments:
        return []
    models = tuple(config.model_of(each) if config is not None else None for each in deployments.values())
    found = await counting.count(CountPrompt(operation, models), body)
    told = []
    for (place, deployment), count in zip(deployments.items(), found, strict=False):  # none if nested deeply
        price = config.price_of(deployment) if config is not None else None
        cost = price.cost(count.tokens, 0, 0) if price is not None else None
        told.append({"place": place, "tokens": count.tokens, "exact": count.exact, "cost": cost})
    return told
