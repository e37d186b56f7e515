"""Several processes before the same backends, in virtual time; it takes a while until the others know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from aoai_gateway.config.models import Config
from aoai_gateway.engine.engine import Engine
from aoai_gateway.engine.peers import Peers
from aoai_gateway.engine.replicated_state import ReplicatedState
from tests.bench.goodput import EXHAUSTED
from tests.bench.workloads import Job
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.goodput import _deployments
from tests.engine.scenarios.overload import Application, Run, _config
from tests.engine.scenarios.traffic import Traffic

LAG = 0.005
"""Seconds until the others know: a batch is collected, goes through the store, and is applied."""


class Member(Traffic):
    """One process. The first one has the clock, the backends and the quotas of all."""

    def __init__(
        self,
        configuration: Config,
        deployments: Mapping[str, Deployment],
        seed: int,
        first: Member | None = None,
    ) -> None:
        self.first = first
        self._now = 0.0
        super().__init__(configuration, deployments, seed)
        shared = ReplicatedState(Random(seed))
        self.engine = Engine(shared.random, shared)
        self.peers = Peers(shared, lambda: self.setup)
        self.journal = shared.journal
        self.shared_scheduler = shared.scheduler
        self.others: list[Member] = []
        if first is None:
            self.name = "0"
        else:
            self.name = str(len(first.others) + 1)
            self.azure, self.counters = first.azure, first.counters
            self.others = [first, *first.others]
            for other in self.others:
                other.others.append(self)
        self.journal.written = lambda: self.after(LAG, self._tell)

    @property
    def now(self) -> float:
        return self._now if self.first is None else self.first.now

    @now.setter
    def now(self, now: float) -> None:
        if self.first is None:
            self._now = now

    def at(self, time: float, what: Any) -> None:
        if self.first is None:
            super().at(time, what)
        else:
            self.first.at(time, what)

    def make_call(self, ident: str, *args: Any, **kwargs: Any) -> Any:
        return super().make_call(f"{self.name}: {ident}", *args, **kwargs)

    def _tell(self) -> None:
        told = json.loads(json.dumps(self.journal.take()))
        for other in self.others:
            other.peers.apply(self.name, told, 0.0, self.now)
            other.changed()


def fleet(
    count: int, configuration: Config, deployments: Mapping[str, Deployment], seed: int = 1
) -> list[Member]:
    """Start so many processes."""
    members = [Member(configuration, deployments, seed)]
    while len(members) < count:
        members.append(Member(configuration, deployments, seed + len(members), members[0]))
    return members


def overload(work: Sequence[Job], seconds: float, seed: int, count: int = 2) -> Run:
    """Make all calls of a run, each at another of the processes, in turn."""
    members = fleet(count, _config(work, priorities=True, declared=False), _deployments(), seed)
    for (endpoint, name), recovers in EXHAUSTED.items():
        members[0].azure.deployments[f"{name}@{endpoint}"].fill(recovers, members[0].now)
    calls = [Application(members[index % count], job, False) for index, job in enumerate(work)]
    for each in calls:
        members[0].on(each.job.at, each.begin)
    members[0].run()
    for member in members:
        member.check_nothing_is_left()
        assert not member.shared_scheduler.elsewhere
    return Run(members[0], calls, seconds)
