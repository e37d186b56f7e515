"""How many provisioned throughput units (PTU) a deployment's traffic would take, and what they cost.

After Azure's own way of sizing: a minute's load is its input tokens, less the cached ones, which cost no
throughput, plus its output tokens, each of which weighs as much as several input tokens. What a unit takes
and the weight differ by model, and are the price table's (``prices.NAME.provisioned``).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.consumers import MINUTE, quantile

if TYPE_CHECKING:
    from aoai_gateway.analysis.reading import Record
    from aoai_gateway.config.models import Config

HOURS_A_MONTH = 730


@dataclass(slots=True)
class DeploymentLoad:
    """The minutes of one virtual deployment."""

    model: str | None = None
    input_at: Counter[int] = field(default_factory=Counter)
    """Without cached tokens."""
    output_at: Counter[int] = field(default_factory=Counter)
    cost: float = 0.0

    def add(self, at: float, record: Record) -> None:
        """Count a served call."""
        minute = int(at // MINUTE)
        self.model = self.model or record["model"]
        self.input_at[minute] += max(0, (record["input_tokens"] or 0) - (record["cached_tokens"] or 0))
        self.output_at[minute] += record["output_tokens"] or 0
        self.cost += record["cost"] or 0.0


def estimate(
    name: str, load: DeploymentLoad, minutes: int, share: float, config: Config | None
) -> dict[str, Any] | None:
    """Return the units for this share of minutes, and both costs of a month; None without a price."""
    price = config.price_of(name, load.model) if config is not None else None
    if price is None or price.provisioned is None:
        return None
    ptu = price.provisioned
    loads = [load.input_at[m] + ptu.output_weight * load.output_at[m] for m in load.input_at]
    # Minutes without a call count, too: units are paid for in all of them.
    wanted = quantile(loads, share, zeros=minutes - len(loads)) or 0.0
    least = math.ceil(wanted / ptu.tokens_per_minute)
    units = max(ptu.smallest, ptu.smallest + ptu.step * math.ceil((least - ptu.smallest) / ptu.step))
    within = sum(min(each, units * ptu.tokens_per_minute) for each in loads)
    return {
        "deployment": name,
        "load_tokens_per_minute": round(wanted),
        "units": units,
        "utilisation": round(sum(loads) / (units * ptu.tokens_per_minute * minutes), 4),
        "share_of_load_within": round(within / sum(loads), 4) if sum(loads) else None,
        "provisioned_cost_per_month": round(units * ptu.hour * HOURS_A_MONTH, 2),
        "payg_cost_per_month": round(load.cost / minutes * 60 * HOURS_A_MONTH, 2),
    }
