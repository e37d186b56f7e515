"""The report as a document: what the terminal, JSON, CSV and the page all show.

Its members: ``from`` and ``to`` (RFC 3339; the first and the last minute), ``minutes``, ``records``,
``left_out``, ``unreadable`` (a count), ``passed_over`` (a sentence about these), ``remarks`` (sentences that
its reader has to know), ``files``, ``percentile``,
``totals``, ``consumers`` (`consumers.figures` each, with ``has_tokens_per_minute`` and
``has_requests_per_minute``: what the configuration gives it, null: no limit), ``throttled`` (`_throttled`
each, the most 429s first), ``provisioned`` (`estimate` each), ``service_tiers`` (`Tiers.rows`) and
``series``: for charts, ``starts`` (of buckets, seconds since the epoch), ``bucket_minutes``, and ``tokens``
of each consumer and ``refused`` in each of them.

Provisioned throughput units (PTU) are counted after Azure's own way of sizing: a minute's load is its input
tokens, less the cached ones, which cost no throughput, plus its output tokens, each of which weighs as much
as several input tokens. What a unit takes and the weight differ by model, and are the price table's
(``prices.NAME.provisioned``).

A call may ask for one service tier and be served by another: Azure may serve priority as default.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis import consumers
from aoai_gateway.quota.effective_policy import effective_policy
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aoai_gateway.analysis.reading import Reading, Record
    from aoai_gateway.config.models import Config


USUAL = (None, "default")
"""Tiers of calls that ask for none."""


@dataclass(slots=True)
class _Served:
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Tiers:
    """The calls that asked for a tier, or were served by another than the default."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str, str], _Served] = {}

    def add(self, record: Record) -> None:
        """Count a record, if a tier has a part in it."""
        asked, served = record["service_tier_requested"], record["service_tier"]
        if asked is None and served in USUAL:
            return
        client = record["client"] or consumers.NO_CLIENT
        deployment = record["asked_deployment"] or record["deployment"] or ""
        found = self._found.setdefault((client, deployment, asked or "", served or ""), _Served())
        found.requests += record["count"] or 1
        found.input_tokens += record["input_tokens"] or 0
        found.output_tokens += record["output_tokens"] or 0
        found.cost += record["cost"] or 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each client, deployment, requested and served tier; null where none was named."""
        return [
            {
                "client": client,
                "deployment": deployment,
                "requested": asked or None,
                "served": served or None,
                "requests": found.requests,
                "input_tokens": found.input_tokens,
                "output_tokens": found.output_tokens,
                "cost": round(found.cost, 6),
            }
            for (client, deployment, asked, served), found in sorted(self._found.items())
        ]


HOURS_A_MONTH = 730


@dataclass(slots=True)
class DeploymentLoad:
    """The minutes of one virtual deployment."""

    model: str | None = None
    input_at: Counter[int] = field(default_factory=Counter)
    """The input tokens of each minute, without cached ones."""
    output_at: Counter[int] = field(default_factory=Counter)
    cost: float = 0.0

    def add(self, at: float, record: Record) -> None:
        """Count a served call."""
        minute = int(at // consumers.MINUTE)
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
    wanted = consumers.quantile(loads, share, zeros=minutes - len(loads)) or 0.0
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


MOST_BUCKETS = 120
"""The most buckets of a chart; a longer report has wider ones."""

MOST_SERIES = 6
"""Consumers that a chart tells apart; the others are one."""

OTHERS = "others"


def report(
    records: Iterable[tuple[float, Record]],
    reading: Reading,
    *,
    percentile: float,
    config: Config | None = None,
    throttled_only: bool = False,
) -> dict[str, Any]:
    """Make the report. ``percentile``: of minutes, for the need and the sizing; above 0, up to 100."""
    loads: dict[str, DeploymentLoad] = {}
    tiers = Tiers()
    found, span = consumers.consumers_of(_watched(records, loads, tiers))
    if throttled_only:
        found = [each for each in found if each.refused or each.dry_run]
    first, last = span if span is not None else (0, -1)
    minutes, share = last - first + 1, percentile / 100
    rows = [consumers.figures(each, minutes, share) | _has(each, config) for each in found]
    for row in rows:
        row["peak_minute"] = _time(row["peak_minute"]) if row["peak_minute"] is not None else None
    return {
        "from": _time(first) if minutes else None,
        "to": _time(last + 1) if minutes else None,
        "minutes": minutes,
        "records": reading.read,
        "left_out": reading.left_out,
        "unreadable": reading.unreadable,
        "passed_over": reading.told(),
        "remarks": reading.remarks(),
        "files": reading.files,
        "percentile": percentile,
        "totals": _totals(rows),
        "consumers": rows,
        "throttled": sorted(
            (_throttled(each) for each in found if each.refused or each.dry_run),
            key=lambda row: -row["refused"],
        ),
        "provisioned": [
            made
            for name, load in sorted(loads.items())
            if (made := estimate(name, load, minutes, share, config)) is not None
        ],
        "service_tiers": tiers.rows(),
        "series": _series(found, first, last) if minutes else None,
    }


def _time(minute: int) -> str:
    """Write a minute since the epoch as a time."""
    return rfc3339(minute * consumers.MINUTE)


def _watched(
    records: Iterable[tuple[float, Record]], loads: dict[str, DeploymentLoad], tiers: Tiers
) -> Iterator[tuple[float, Record]]:
    """Pass records on, and keep the load of each deployment, and the service tiers."""
    for at, record in records:
        tiers.add(record)
        if record["deployment"] and record["input_tokens"] is not None:
            loads.setdefault(record["deployment"], DeploymentLoad()).add(at, record)
        yield at, record


def _has(consumer: consumers.Consumer, config: Config | None) -> dict[str, int | None]:
    """Return the limits per minute that the configuration sets: the smaller one of two."""
    client = config.client_named(consumer.client) if config is not None else None
    tokens: list[int] = []
    requests: list[int] = []
    if config is not None and client is not None:
        for quota in effective_policy(config, client, consumer.deployment).quotas:
            tokens += [quota.tokens_per_minute] if quota.tokens_per_minute is not None else []
            requests += [quota.requests_per_minute] if quota.requests_per_minute is not None else []
    return {
        "has_tokens_per_minute": min(tokens, default=None),
        "has_requests_per_minute": min(requests, default=None),
    }


def _totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summed = ("requests", "served", "errors", "aborted", "refused", "input_tokens", "output_tokens")
    totals: dict[str, Any] = {key: sum(row[key] for row in rows) for key in summed}
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    totals["cost"] = round(sum(costs), 6) if costs else None
    causes: Counter[str] = Counter()
    for row in rows:
        causes.update(row["refused_by_cause"])
    totals["refused_by_cause"] = dict(causes.most_common())
    return totals


def _throttled(consumer: consumers.Consumer) -> dict[str, Any]:
    minutes = sorted(consumer.refused_at)
    worst = max(minutes, key=lambda minute: consumer.refused_at[minute], default=None)
    return {
        "client": consumer.client,
        "deployment": consumer.deployment,
        "refused": sum(consumer.refused.values()),
        "of": consumer.calls,
        "by_cause": consumers.ranked(consumer.refused),
        "dry_run_by_cause": consumers.ranked(consumer.dry_run),
        "first": _time(minutes[0]) if minutes else None,
        "last": _time(minutes[-1]) if minutes else None,
        "minutes": len(minutes),
        "worst_minute": _time(worst) if worst is not None else None,
        "in_worst_minute": consumer.refused_at[worst] if worst is not None else 0,
    }


def _series(found: list[consumers.Consumer], first: int, last: int) -> dict[str, Any]:
    width = -(-(last - first + 1) // MOST_BUCKETS)
    count = -(-(last - first + 1) // width)
    tokens: dict[str, list[int]] = {}
    refused = [0] * count
    for rank, consumer in enumerate(found):
        for minute, amount in consumer.refused_at.items():
            refused[(minute - first) // width] += amount
        if not consumer.tokens:
            continue
        name = f"{consumer.client} · {consumer.deployment}" if rank < MOST_SERIES else OTHERS
        line = tokens.setdefault(name, [0] * count)
        for minute, amount in consumer.tokens_at.items():
            line[(minute - first) // width] += amount
    return {
        "starts": [(first + n * width) * consumers.MINUTE for n in range(count)],
        "bucket_minutes": width,
        "tokens": tokens,
        "refused": refused,
    }
