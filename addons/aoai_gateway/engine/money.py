"""Budgets in money: what a call may cost at most is booked, and settled with what it has cost.

Money is counted in millionths of the currency of ``prices``, so that the stores, which count whole numbers,
count it like tokens, on an account of its own. Both are booked in one step, and settled in one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine.estimates import (
    HEARD_TOKENS_PER_SECOND,
    NO_MEDIA,
    SAID_TOKENS_PER_SECOND,
    SPOKEN_TOKENS_PER_CHARACTER,
    makes_images,
    media_asked,
    media_given,
)
from aoai_gateway.quota.quotas import UNIT
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from aoai_gateway.config.prices import Price
    from aoai_gateway.engine.call import Call
    from aoai_gateway.quota.quotas import Budget, Reservation
    from aoai_gateway.wire.usage import Usage


def most(call: Call, prompt_tokens: int, answer_tokens: int) -> int:
    """Return what a call may cost at most, in millionths. Raises a 403 if nothing says its price."""
    price = call.setup.config.price_of(call.deployment)
    if price is None:
        raise errors.forbidden(
            f"Your budget is in money, and the deployment '{call.deployment}' has no price. Ask the "
            "gateway's administrator to add one.",
            code="no_price_configured",
        )
    wanted = media_asked(call)
    heard = math.ceil(wanted.seconds * HEARD_TOKENS_PER_SECOND)
    said = math.ceil(wanted.seconds * SAID_TOKENS_PER_SECOND)
    spoken = wanted.characters * SPOKEN_TOKENS_PER_CHARACTER
    cost = price.cost(
        prompt_tokens + heard,
        max(answer_tokens, said) + spoken,
        input_audio_tokens=heard,
        output_audio_tokens=spoken,
        output_image_tokens=answer_tokens if makes_images(call) else 0,
        images=wanted.images,
        seconds=wanted.seconds,
        characters=wanted.characters,
        tier=call.requested_tier,
    )
    return math.ceil(cost * UNIT)


def priced(
    call: Call, reservation: Reservation, budget: Budget, prompt_tokens: int, answer_tokens: int
) -> Reservation:
    """Add the client's budget, and the most that the call may cost. Raises as `most`."""
    cost = most(call, prompt_tokens, answer_tokens)
    return replace(reservation, quotas=(*reservation.quotas, budget), cost=cost)


def spent(call: Call, prompt_tokens: int, answer_tokens: int) -> int:
    """Return what a served call has cost, in millionths: by its usage, else by what was counted here."""
    config = call.setup.config
    price: Price | None = config.price_of(call.deployment, call.model) or config.price_of(call.deployment)
    if price is None:
        return 0
    return math.ceil(cost(call, price, prompt_tokens, answer_tokens) * UNIT)


def cost(call: Call, price: Price, prompt_tokens: int, answer_tokens: int) -> float:
    """Return what a served call has cost; ``prompt_tokens`` and ``answer_tokens`` count without usage."""
    got, usage = media_given(call), call.usage
    # Until the answer tells which tier has served it, the one that was asked for counts.
    tier = call.requested_tier if call.service_tier in (None, "auto") else call.service_tier
    units = 0.0
    if got is not NO_MEDIA:
        units = price.cost(0, 0, images=got.images, seconds=got.seconds, characters=got.characters, tier=tier)
    if usage is None:
        return units + price.cost(prompt_tokens, answer_tokens, tier=tier)
    if makes_images(call) and not usage.output_image_tokens:
        usage = replace(usage, output_image_tokens=usage.output_tokens)
    if got.characters and not usage.output_audio_tokens:
        usage = replace(usage, output_audio_tokens=usage.output_tokens)
    return units + usage_cost(price, usage, tier)


def spent_by(call: Call, usage: Usage | None, booked: int) -> int:
    """Return what a response of a session has cost, in millionths; without usage, what was booked for it."""
    price = call.setup.config.price_of(call.deployment, call.model)
    if usage is None or price is None:
        return booked
    return math.ceil(usage_cost(price, usage, call.service_tier) * UNIT)


def usage_cost(price: Price, usage: Usage, tier: str | None) -> float:
    """Return what the tokens of one answer cost. ``tier``: the service tier whose price counts."""
    return price.cost(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        cached_audio_tokens=usage.cached_audio_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_image_tokens=usage.output_image_tokens,
        tier=tier,
    )
