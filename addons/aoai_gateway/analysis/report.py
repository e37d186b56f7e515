"""The report as a document: what the terminal, JSON, CSV and the page all show.

Its members: ``from`` and ``to`` (RFC 3339; the first and the last minute), ``minutes``, ``records``,
``left_out``, ``unreadable`` (a count), ``passed_over`` (a sentence about these), ``remarks`` (sentences that
its reader has to know), ``files``, ``percentile``,
``totals``, ``consumers`` (`consumers.figures` each, with ``has_tokens_per_minute`` and
``has_requests_per_minute``: what the configuration gives it, null: no limit), ``throttled`` (`_throttled`
each, the most 429s first), ``provisioned`` (`ptu.estimate` each), ``service_tiers`` (`tiers.Tiers.rows`) and
``series``: for charts, ``starts`` (of buckets, seconds since the epoch), ``bucket_minutes``, and ``tokens``
of each consumer and ``refused`` in each of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.consumers import MINUTE, Consumer, consumers_of, figures, ranked
from aoai_gateway.analysis.ptu import DeploymentLoad, estimate
from aoai_gateway.analysis.tiers import Tiers
from aoai_gateway.quota.effective_policy import effective_policy
from aoai_gateway.wire.rfc3339 import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aoai_gateway.analysis.reading import Reading, Record
    from aoai_gateway.config.models import Config

MOST_BUCKETS = 120
"""Of a chart; a longer report has wider ones."""

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
    found, span = consumers_of(_watched(records, loads, tiers))
    if throttled_only:
        found = [each for each in found if each.refused or each.dry_run]
    first, last = span if span is not None else (0, -1)
    minutes, share = last - first + 1, percentile / 100
    rows = [figures(each, minutes, share) | _has(each, config) for each in found]
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
    return rfc3339(minute * MINUTE)


def _watched(
    records: Iterable[tuple[float, Record]], loads: dict[str, DeploymentLoad], tiers: Tiers
) -> Iterator[tuple[float, Record]]:
    """Pass records on, and keep the load of each deployment, and the service tiers."""
    for at, record in records:
        tiers.add(record)
        if record["deployment"] and record["input_tokens"] is not None:
            loads.setdefault(record["deployment"], DeploymentLoad()).add(at, record)
        yield at, record


def _has(consumer: Consumer, config: Config | None) -> dict[str, int | None]:
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


def _throttled(consumer: Consumer) -> dict[str, Any]:
    minutes = sorted(consumer.refused_at)
    worst = max(minutes, key=lambda minute: consumer.refused_at[minute], default=None)
    return {
        "client": consumer.client,
        "deployment": consumer.deployment,
        "refused": sum(consumer.refused.values()),
        "of": consumer.calls,
        "by_cause": ranked(consumer.refused),
        "dry_run_by_cause": ranked(consumer.dry_run),
        "first": _time(minutes[0]) if minutes else None,
        "last": _time(minutes[-1]) if minutes else None,
        "minutes": len(minutes),
        "worst_minute": _time(worst) if worst is not None else None,
        "in_worst_minute": consumer.refused_at[worst] if worst is not None else 0,
    }


def _series(found: list[Consumer], first: int, last: int) -> dict[str, Any]:
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
        "starts": [(first + n * width) * MINUTE for n in range(count)],
        "bucket_minutes": width,
        "tokens": tokens,
        "refused": refused,
    }
