"""What a prompt takes before it is sent: its tokens, and their price at each place where it is to run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Count, Counter

MOST_BYTES = 256 * 1024
"""Of a body that is counted while it is edited; calls wait while a larger one is decoded."""


async def counts(
    counter: Counter, config: Config | None, operation: str, body: bytes, places: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the ``tokens`` and the ``cost`` of a prompt for each place; nothing of a large one.

    ``exact``: whether the tokens are counted as the model counts them. ``cost`` is in the currency of
    ``prices``, and None where the deployment has no price.
    """
    if len(body) > MOST_BYTES:
        return []
    found = []
    for place in dict.fromkeys(places):
        deployment = place.partition("@")[0]
        model = config.model_of(deployment) if config is not None else None
        count = await asyncio.to_thread(_count, counter, operation, body, model)
        price = config.price_of(deployment) if config is not None else None
        cost = price.cost(count.tokens, 0, 0) if price is not None else None
        found.append({"place": place, "tokens": count.tokens, "exact": count.exact, "cost": cost})
    return found


def _count(counter: Counter, operation: str, body: bytes, model: str | None) -> Count:
    return counter.count_request(operation, json.loads(body), model)
