"""Which service tiers calls asked for, and which served them: Azure may serve priority as default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.consumers import NO_CLIENT

if TYPE_CHECKING:
    from aoai_gateway.analysis.reading import Record

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
        client = record["client"] or NO_CLIENT
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
