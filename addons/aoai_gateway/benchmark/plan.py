"""What is to be sent, and when: an open loop, in which no call waits for the answer to an earlier one.

A server that becomes slow gets as many calls as before, and every call is measured from the time at which it
was to be sent. So a stall counts for all calls that fall into it, not for the one alone that met it first
(*coordinated omission*, as Gil Tene calls it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any

ARRIVALS = ("poisson", "steady")
"""How calls come: at random, as those of many independent users, or at equal distances."""

DRAWN_FROM = ("chat.completions", "completions", "responses")
"""Operations whose records tell the size of a chat."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a call: tokens of its prompt, and the most of its answer (None: no bound)."""

    prompt: int
    most: int | None
    stream: bool = True


PROFILES: Mapping[str, Shape] = {
    "balanced": Shape(500, 500),
    "context": Shape(2000, 200),
    "generation": Shape(500, 1000),
}
"""Those of Azure's azure-openai-benchmark."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A client in whose name calls are made. ``share``: its part of the calls, beside the others' shares."""

    name: str
    key: str = field(repr=False)
    share: float = 1.0
    priority: str | None = None
    """The class that it asks for; None for its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """So many calls per minute for so many seconds (infinite: until it is stopped)."""

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Planned:
    """One call. ``at``: seconds after the begin; ``step``: the number of its step, from 0."""

    at: float
    step: int
    consumer: Consumer
    shape: Shape


@dataclass(frozen=True, slots=True)
class Drawn:
    """A call of a record: when it came, in seconds after the first one, and its size."""

    at: float
    client: str
    shape: Shape


def drawn_from(records: Iterable[tuple[float, dict[str, Any]]]) -> list[Drawn]:
    """Take the sizes and the times of recorded calls that had an answer, in the order of time.

    The answer's size becomes the bound of the new call's answer, as far as it asked for no smaller one.
    """
    found: list[Drawn] = []
    for at, record in records:
        if record["operation"] not in DRAWN_FROM or not record["input_tokens"]:
            continue
        sizes = (record["output_tokens"], record["max_tokens"])
        most = min((size for size in sizes if size), default=1)
        shape = Shape(record["input_tokens"], most, bool(record["streaming"]))
        found.append(Drawn(at, record["client"] or "", shape))
    found.sort(key=lambda each: each.at)
    return [Drawn(each.at - found[0].at, each.client, each.shape) for each in found]


def planned(
    steps: Sequence[Step],
    shapes: Sequence[Shape],
    consumers: Sequence[Consumer],
    random: Random,
    *,
    arrivals: str = "poisson",
) -> Iterator[Planned]:
    """Plan calls at the rates of these steps, one after the other, with shapes and consumers by chance."""
    shares = list(accumulate(consumer.share for consumer in consumers))
    begin = 0.0
    for number, step in enumerate(steps):
        at, mean = begin, 60.0 / step.rate
        if arrivals == "poisson":
            at += random.expovariate(1 / mean)
        while at < begin + step.seconds:
            (consumer,) = random.choices(consumers, cum_weights=shares)
            yield Planned(at, number, consumer, random.choice(shapes))
            at += random.expovariate(1 / mean) if arrivals == "poisson" else mean
        begin += step.seconds


def replayed(
    drawn: Sequence[Drawn], consumers: Sequence[Consumer], random: Random, *, speed: float = 1.0
) -> Iterator[Planned]:
    """Plan calls as they came, so many times as fast; those of a consumer's name in that one's name."""
    by_name = {consumer.name: consumer for consumer in consumers}
    shares = list(accumulate(consumer.share for consumer in consumers))
    for each in drawn:
        consumer = by_name.get(each.client) or random.choices(consumers, cum_weights=shares)[0]
        yield Planned(each.at / speed, 0, consumer, each.shape)


def length(drawn: Sequence[Drawn], speed: float) -> Step:
    """Return the step that a replay is: its mean rate, and its length."""
    seconds = drawn[-1].at / speed if drawn and drawn[-1].at else 1.0
    return Step(60.0 * len(drawn) / seconds, math.nextafter(seconds, math.inf))
