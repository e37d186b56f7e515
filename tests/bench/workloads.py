"""What applications ask for under lasting overload, and who could be served at best.

Critical calls are steady (2 a second, about 400 + 400 tokens), batch calls come in bursts (1 a second, and
4.6 for 15 s of every 30 s, about 1,000 + 1,000 tokens). Together they ask for 180 % of the capacity, and
everything is exhausted when they begin. A client hangs up when its patience is over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from aoai_simulator import limits
from tests.bench.goodput import CAPACITY, EXHAUSTED, FIRST_TOKEN, PROVISIONED, SPEED

PATIENCE = {"critical": 20.0, "batch": 30.0}
"""Seconds after which a client hangs up, by class."""
SIZES = {"critical": 400, "batch": 1000}
"""Tokens of a prompt, and of an answer, on average."""
CRITICAL_RATE = 2.0
BATCH_RATE, BURST_RATE, BURST_SECONDS, BURST_EVERY = 1.0, 4.6, 15.0, 30.0
"""Calls per second, and how often and how long they come faster."""
MOST = 1.25
"""Times its answer that a call says as max_tokens."""
SURGE_SECONDS = 20.0
"""For how long the `surge` workload asks for 300 %."""
SMALL_SHARE = 0.6
"""Of the batch calls, the smallest, which the ideal queue serves that knows how much will be asked for."""
LONG_ANSWER = 6
"""How many times longer the answers of the `long` workload are than usual; there are as many fewer calls."""


@dataclass(frozen=True)
class Job:
    """One call of an application. Times are in seconds, sizes in tokens."""

    number: int
    cls: str
    client: str
    at: float
    patience: float
    prompt: int
    completion: int
    stream: bool

    @property
    def most(self) -> int:
        """What it says as max_tokens: callers reserve more than they use."""
        return round(MOST * self.completion)

    @property
    def cost(self) -> int:
        """The tokens that it really uses."""
        return self.prompt + self.completion

    @property
    def takes(self) -> float:
        """How long its answer takes when no other call is in the way."""
        return FIRST_TOKEN + (self.completion - 1) / SPEED


def jobs(seconds: float, seed: int, load: float = 1.0) -> list[Job]:
    """All calls of a run, by time. ``load``: how many times the rates above."""
    return _jobs(seconds, seed, load, lambda _: load)


def surge(seconds: float, seed: int) -> list[Job]:
    """Light load (70 %), and in the middle 300 % for 20 s."""
    light, heavy = 0.7 / 1.8, 3.0 / 1.8
    begins = (seconds - SURGE_SECONDS) / 2
    return _jobs(seconds, seed, heavy, lambda at: heavy if begins <= at < begins + SURGE_SECONDS else light)


def long_streams(seconds: float, seed: int) -> list[Job]:
    """The lasting overload, where one batch call in four is a long stream, with patience for it."""
    dice = random.Random(seed)
    found = []
    for job in jobs(seconds, seed):
        if job.cls == "batch" and dice.random() < 0.25:
            if dice.random() < 2 / (1 + LONG_ANSWER):
                completion = job.completion * LONG_ANSWER
                patience = job.patience + completion / SPEED
                found.append(replace(job, completion=completion, patience=patience, stream=True))
        else:
            found.append(job)
    return found


WORKLOADS: Mapping[str, Callable[[float, int], list[Job]]] = {
    "lasting": jobs,
    "surge": surge,
    "long": long_streams,
}


def _jobs(seconds: float, seed: int, most: float, load: Callable[[float], float]) -> list[Job]:
    dice = random.Random(seed)
    found: list[Job] = []

    def come(cls: str, rate: Callable[[float], float], highest: float) -> None:
        at = dice.expovariate(highest)
        while at < seconds:
            if dice.random() < rate(at) / highest:
                size = SIZES[cls]
                prompt = dice.randint(size // 2, size * 3 // 2)
                completion = dice.randint(size // 2, size * 3 // 2)
                stream = dice.random() < 0.5
                found.append(Job(len(found), cls, cls, at, PATIENCE[cls], prompt, completion, stream))
            at += dice.expovariate(highest)

    come("critical", lambda at: load(at) * CRITICAL_RATE, most * CRITICAL_RATE)
    come(
        "batch",
        lambda at: load(at) * (BURST_RATE if at % BURST_EVERY < BURST_SECONDS else BATCH_RATE),
        most * BURST_RATE,
    )
    return sorted(found, key=lambda job: job.at)


# --- references --------------------------------------------------------------------------------------------


def newest_first(job: Job) -> float:
    """The order of a stack."""
    return -job.at


def deadline_first(job: Job) -> float:
    """The order of deadlines (EDF)."""
    return job.at + job.patience - job.takes


def without_the_largest(work: Sequence[Job], share: float) -> list[Job]:
    """Leave out the largest batch calls, so that this share (0..1) of them is left; critical ones all stay.

    A queue that knew how much will be asked for would refuse these at once: for the tokens of a large call,
    two small ones get their answers.
    """
    costs = sorted(job.cost for job in work if job.cls == "batch")
    left = costs[: round(share * len(costs))]
    return [job for job in work if job.cls == "critical" or (left and job.cost <= left[-1])]


def served_in_order(
    work: Sequence[Job],
    order: Callable[[Job], float],
    *,
    knows_deadlines: bool,
    exhausted: Mapping[tuple[str, str], float] = EXHAUSTED,
) -> set[int]:
    """Return the numbers of the jobs that an ideal queue answers in time.

    It knows the state of Azure's limits exactly, so it is never refused; critical calls come first, and
    within a class `order` says who is next. With ``knows_deadlines`` it sends no call that cannot be answered
    in time; without, it spends quota on some that cannot. Steps of 50 ms.
    """
    step, now = 0.05, 0.0
    states: dict[tuple[str, str], tuple[limits.Limits, limits.State]] = {}
    for name, size in CAPACITY.items():
        limit: limits.Limits = limits.PtuLimits(size) if name == PROVISIONED else limits.PaygLimits(size)
        states[name] = (limit, limits.fill(limit, limit.empty(), 0.0, exhausted.get(name, 0.0)))
    coming, waiting, answered = list(reversed(work)), list[Job](), set[int]()
    running: list[tuple[float, tuple[str, str], limits.Reservation, Job]] = []
    while coming or waiting:
        while coming and coming[-1].at <= now:
            waiting.append(coming.pop())
        for ended in [each for each in running if each[0] <= now]:
            running.remove(ended)
            _, name, reservation, job = ended
            limit, state = states[name]
            states[name] = (limit, limits.settle(limit, state, reservation, job.cost, now))
        waiting = [job for job in waiting if now < job.at + job.patience - job.takes * knows_deadlines]
        waiting.sort(key=lambda job: (job.cls != "critical", order(job)))
        for job in list(waiting):
            for name, (limit, state) in states.items():
                decision, after = limits.admit(limit, state, job.prompt + job.most, now)
                if decision.admitted and decision.reservation is not None:
                    states[name] = (limit, after)
                    waiting.remove(job)
                    running.append((now + job.takes, name, decision.reservation, job))
                    if now + job.takes <= job.at + job.patience:
                        answered.add(job.number)
                    break
            else:
                break
        now += step
    return answered
