"""The goodput benchmark's run (`tests/bench/goodput.py`) in virtual time: its calls, limits and clients."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aoai_gateway.config.models import Config
from aoai_simulator.limits import PaygLimits, PtuLimits
from tests.bench.goodput import (
    CAPACITY,
    EXHAUSTED,
    FIRST_TOKEN,
    FRAMING_TOKENS,
    HANG_SECONDS,
    PROVISIONED,
    RESET_SECONDS,
    SPEED,
    arrivals,
    completion_tokens,
    cost,
    gateway_config,
)
from tests.bench.sdk_like import MAX_RETRIES, Ask, is_retried, retry_wait
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Caller, Traffic
from tests.engine_driver import DEPLOYMENT


@dataclass
class Asked:
    """One call of an application, with the requests that its SDK made of it."""

    traffic: Traffic
    ask: Ask
    requests: list[Caller] = field(default_factory=list)
    answered_at: float | None = None
    """Seconds after it came; None: not within its deadline."""

    def begin(self) -> None:
        ask, here = self.ask, self.traffic
        caller = here.call(
            ask.cls,
            prompt=ask.prompt_tokens + FRAMING_TOKENS,
            most=ask.max_tokens,
            completion=completion_tokens(ask),
            stream=ask.stream,
            timeout=round(ask.deadline, 1),
            over=self._over,
        )
        if not self.requests or self.requests[-1] is not caller:
            self.requests.append(caller)
        if len(self.requests) == 1:
            here.on(ask.at + ask.deadline, self._out_of_time)

    def _out_of_time(self) -> None:
        for caller in self.requests:
            caller.hang_up()

    def _over(self, caller: Caller) -> None:
        if not self.requests or self.requests[-1] is not caller:
            self.requests.append(caller)
        here, ask, call = self.traffic, self.ask, caller.call
        if caller.trace.gone:
            return
        since = here.now - here.begun - ask.at
        if caller.ok:
            self.answered_at = since
            return
        if call.status == 200:
            # What breaks off within a stream is the application's to see.
            return
        headers = caller.headers
        retry = len(self.requests) - 1
        if retry >= MAX_RETRIES or not is_retried(call.status or 0, headers):
            return
        wait = retry_wait(headers, retry, random.Random(ask.number + retry))
        if since + wait < ask.deadline:
            here.after(wait, self.begin)

    @property
    def tokens(self) -> int:
        """Useful ones."""
        return cost(self.ask) if self.answered_at is not None else 0


@dataclass
class Run:
    """What a run gave."""

    traffic: Traffic
    asked: list[Asked]

    def success(self, cls: str) -> float:
        mine = [each for each in self.asked if each.ask.cls == cls]
        return sum(each.answered_at is not None for each in mine) / len(mine)

    @property
    def useful(self) -> int:
        return sum(each.tokens for each in self.asked)

    @property
    def refusals_per_answer(self) -> float:
        return self.traffic.azure.refusals / max(1, self.traffic.azure.answers)

    def p95(self, cls: str) -> float:
        times = sorted(
            each.answered_at for each in self.asked if each.ask.cls == cls and each.answered_at is not None
        )
        return times[int(0.95 * (len(times) - 1))]


def run(
    shares: Mapping[str, float], seconds: float, seed: int, *, priorities: bool, dead: str | None = None
) -> Run:
    """Send all calls of a run. ``dead``: the endpoint that hangs, and then resets, in the middle of it."""
    here = Traffic(_config(priorities=priorities), _deployments(), seed)
    for (endpoint, name), recovers in EXHAUSTED.items():
        here.azure.deployments[f"{name}@{endpoint}"].fill(recovers, here.now)
    if dead is not None:
        hangs = (seconds - HANG_SECONDS - RESET_SECONDS) / 2
        here.on(hangs, lambda: here.become(dead, "hanging"))
        here.on(hangs + HANG_SECONDS, lambda: here.become(dead, "resetting"))
        here.on(hangs + HANG_SECONDS + RESET_SECONDS, lambda: here.become(dead, "healthy"))
    asked = [Asked(here, ask) for ask in arrivals(shares, seconds, seed)]
    for each in asked:
        here.on(each.ask.at, each.begin)
    here.run()
    here.check_nothing_is_left()
    return Run(here, asked)


def _config(*, priorities: bool) -> Config:
    names = sorted({endpoint for endpoint, _ in CAPACITY}, reverse=True)
    document = gateway_config(
        {name: f"https://{name}.example/" for name in names},
        {name: f"key-of-{name}" for name in names},
        priorities=priorities,
    )
    for endpoint in document["aoai"]["endpoints"]:
        for virtual in endpoint["virtual_deployments"]:
            virtual["name"] = DEPLOYMENT
    return Config.model_validate(document)


def _deployments() -> dict[str, Deployment]:
    found = {}
    for (endpoint, name), limit in CAPACITY.items():
        limits = PtuLimits(limit) if (endpoint, name) == PROVISIONED else PaygLimits(limit, limit * 6 // 1000)
        found[f"{name}@{endpoint}"] = Deployment(limits, FIRST_TOKEN, SPEED)
    return found


def figures(runs: Sequence[Run]) -> str:
    """What to print where a figure is missed."""
    return "; ".join(
        f"critical {each.success('critical'):.1%} standard {each.success('standard'):.1%}"
        f" batch {each.success('batch'):.1%} useful {each.useful:,}"
        f" 429s per answer {each.refusals_per_answer:.3f}"
        f" critical p95 {each.p95('critical'):.2f} s"
        for each in runs
    )
