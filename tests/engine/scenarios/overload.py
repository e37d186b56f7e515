"""The workloads of `tests/bench/workloads.py` in virtual time: engine, Azure's limits, the SDKs' retries."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aoai_gateway.config.models import Config
from tests.bench.goodput import CAPACITY, EXHAUSTED, TOKENS_PER_SECOND, gateway_config
from tests.bench.sdk_like import MAX_RETRIES, is_retried, retry_wait
from tests.bench.workloads import Job
from tests.engine.scenarios.goodput import _deployments
from tests.engine.scenarios.traffic import Caller, Traffic
from tests.engine_driver import DEPLOYMENT


@dataclass
class Application:
    """One call of an application, with the requests that its SDK makes of it."""

    traffic: Traffic
    job: Job
    told: bool
    requests: list[Caller] = field(default_factory=list)
    answered_at: float | None = None
    """Seconds after it came; None: not within its patience."""

    def begin(self) -> None:
        job, here = self.job, self.traffic
        caller = here.call(
            job.client,
            prompt=job.prompt,
            most=job.most,
            completion=job.completion,
            stream=job.stream,
            timeout=job.patience if self.told else None,
            over=self._over,
        )
        if not self.requests or self.requests[-1] is not caller:
            self.requests.append(caller)
        if len(self.requests) == 1:
            here.on(job.at + job.patience, self._hang_up)

    def _hang_up(self) -> None:
        for caller in self.requests:
            caller.hang_up()

    def _over(self, caller: Caller) -> None:
        if not self.requests or self.requests[-1] is not caller:
            self.requests.append(caller)
        here, job, call = self.traffic, self.job, caller.call
        if caller.trace.gone:
            return
        since = here.now - here.begun - job.at
        if caller.ok:
            self.answered_at = since
            return
        headers, retry = caller.headers, len(self.requests) - 1
        if call.status == 200 or retry >= MAX_RETRIES or not is_retried(call.status or 0, headers):
            return
        wait = retry_wait(headers, retry, random.Random(job.number + retry))
        if since + wait < job.patience:
            here.after(wait, self.begin)


@dataclass
class Run:
    """What a run gave."""

    traffic: Traffic
    calls: list[Application]
    seconds: float

    def success(self, cls: str, client: str | None = None) -> float:
        mine = [a for a in self.calls if a.job.cls == cls and client in (None, a.job.client)]
        return sum(a.answered_at is not None for a in mine) / len(mine)

    @property
    def useful(self) -> float:
        """Tokens of answers in time, as a share of what the backends could serve."""
        served = sum(a.job.cost for a in self.calls if a.answered_at is not None)
        return served / (TOKENS_PER_SECOND * self.seconds)

    def refusals_per_answer(self, since: float = 0.0) -> float:
        azure = self.traffic.azure
        refused = [at for at in azure.refused_at if at - self.traffic.begun >= since]
        answered = [at for at in azure.answered_at if at - self.traffic.begun >= since]
        return len(refused) / max(1, len(answered))

    @property
    def for_gone_clients(self) -> float:
        """Of the tokens that backends charged, the share for clients who had left."""
        spent = sum(each.spent for each in self.traffic.azure.served)
        useful = sum(a.job.cost for a in self.calls if a.answered_at is not None)
        return 1 - useful / max(1, spent)

    def p95(self, cls: str) -> float:
        times = sorted(a.answered_at for a in self.calls if a.job.cls == cls and a.answered_at is not None)
        return times[int(0.95 * (len(times) - 1))] if times else float("inf")


def run(
    work: Sequence[Job],
    seconds: float,
    seed: int,
    *,
    priorities: bool = True,
    told: bool = False,
    declared: bool = False,
    exhausted: Mapping[tuple[str, str], float] = EXHAUSTED,
) -> Run:
    """Make all calls of a run. ``told``: clients say their patience; ``declared``: sizes are configured."""
    here = Traffic(_config(work, priorities=priorities, declared=declared), _deployments(), seed)
    for (endpoint, name), recovers in exhausted.items():
        here.azure.deployments[f"{name}@{endpoint}"].fill(recovers, here.now)
    calls = [Application(here, job, told) for job in work]
    for each in calls:
        here.on(each.job.at, each.begin)
    here.run()
    here.check_nothing_is_left()
    return Run(here, calls, seconds)


def _config(work: Sequence[Job], *, priorities: bool, declared: bool) -> Config:
    names = sorted({endpoint for endpoint, _ in CAPACITY}, reverse=True)
    document = gateway_config(
        {name: f"https://{name}.example/" for name in names},
        {name: f"key-of-{name}" for name in names},
        priorities=priorities,
        declared=declared,
    )
    for endpoint in document["aoai"]["endpoints"]:
        for virtual in endpoint["virtual_deployments"]:
            virtual["name"] = DEPLOYMENT
    clients = {job.client: job.cls for job in work}
    document["clients"] = [
        {"name": name, "key": f"key-of-{name}", **({"priority": cls} if priorities else {})}
        for name, cls in clients.items()
    ]
    return Config.model_validate(document)


def figures(found: Run) -> str:
    """What to print of a run."""
    return (
        f"critical {found.success('critical'):.1%} p95 {found.p95('critical'):.2f} s"
        f" batch {found.success('batch'):.1%} useful {found.useful:.1%}"
        f" 429s per answer {found.refusals_per_answer():.3f}"
        f" after a minute {found.refusals_per_answer(60):.3f} for the gone {found.for_gone_clients:.1%}"
    )
