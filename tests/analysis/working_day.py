"""A working day of four consumers, as the report's picture shows it; always the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from aoai_gateway.config.models import Client, Config
from tests.engine_driver import config
from tests.usage.records import attempt, record

MORNING = datetime(2026, 11, 26, 6, tzinfo=UTC)
MINUTES = 14 * 60


@dataclass(frozen=True)
class Team:
    name: str
    deployment: str
    calls: float
    """Per minute, at its busiest."""
    busiest: float
    """The hour of the day."""
    hours: float
    """How long that lasts."""
    taken: int
    given: int
    limit: int
    """Tokens per minute."""


TEAMS = (
    Team("Support chat", "gpt-4o", 9, 11, 3, 1800, 350, 30_000),
    Team("Search", "gpt-4o-mini", 14, 14, 4, 900, 120, 25_000),
    Team("Contract review", "gpt-4o", 2.5, 15.5, 2, 6000, 900, 15_000),
    Team("Nightly reports", "gpt-4o", 5, 6.5, 0.7, 2500, 700, 12_000),
)


def policy() -> Config:
    """The configuration under which it went so."""
    clients = [
        Client(name=t.name, key=f"key-of-{n}", max_tokens_per_minute=t.limit) for n, t in enumerate(TEAMS)
    ]
    return config("a", clients=tuple(clients))


def working_day() -> Iterator[dict[str, Any]]:
    """All records, in the order of time."""
    random = Random(3)
    for minute in range(MINUTES):
        for team in TEAMS:
            hour = 6 + minute / 60
            mean = team.calls * math.exp(-(((hour - team.busiest) / team.hours) ** 2))
            yield from _minute(team, minute, mean * random.uniform(0.6, 1.4), random)


def _minute(team: Team, minute: int, mean: float, random: Random) -> Iterator[dict[str, Any]]:
    used = 0
    for _ in range(int(mean) + (random.random() < mean % 1)):
        taken, given = (round(size * random.lognormvariate(0, 0.4)) for size in (team.taken, team.given))
        at = MORNING + timedelta(minutes=minute, seconds=random.uniform(0, 59))
        first, whole = random.lognormvariate(6, 0.4), given * random.uniform(14, 25)
        common = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "client": team.name,
            "deployment": team.deployment,
            "streaming": team.name != "Nightly reports",
        }
        if used + taken + given > team.limit:
            quota = {
                "quota": "tokens_per_minute",
                "deployment": None,
                "limit": team.limit,
                "asked": 0,
                "left": 0,
            }
            refused = {"outcome": "rejected", "status": 429, "error": "quota_exceeded", "attempts": []}
            yield record(**common, **refused, refused_by=quota, input_tokens=None, output_tokens=None)
            continue
        used += taken + given
        yield record(
            **common,
            input_tokens=taken,
            output_tokens=given,
            cost=(2.5 * taken + 10 * given) / 1e6,
            first_token_ms=first,
            duration_ms=first + whole,
            attempts=[attempt()],
        )
