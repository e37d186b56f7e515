"""What is to be sent, and when: an open loop, in which no call waits for the answer to an earlier one.

A server that becomes slow gets as many calls as before, and every call is measured from the time at which it
was to be sent. So a stall counts for all calls that fall into it, not for the one alone that met it first
(*coordinated omission*, as Gil Tene calls it).

No two prompts begin alike: one whose beginning a backend has seen is answered from its cache, and would
measure that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoai_gateway.tokens import Counter

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


# --- prompts ---------------------------------------------------------------------------------------------

_COMMON = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law car
city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education
"""

WORDS = tuple(_COMMON.split())
"""Common words; those that are one token, with a space before them, are used."""

FRESH_WORDS = 16
"""Words at the begin of a prompt that are drawn anew for each: more than 10³⁰ beginnings."""

LONGEST_TEXT = 20_000
"""Words of the text that the rest of prompts is cut from; of a longer prompt it is repeated."""

TASK = "Write a long essay about life, in at least {most} tokens."


class Prompts:
    """Makes bodies for one deployment, with prompts of a given number of tokens.

    ``members``: what each of them has besides (``temperature``).
    """

    def __init__(
        self,
        counter: Counter,
        deployment: str,
        random: Random,
        *,
        members: Mapping[str, Any] | None = None,
        usage: bool = True,
        cached: bool = False,
    ) -> None:
        self._counter = counter
        self._deployment = deployment
        self._random = random
        self._members = dict(members or {})
        self._usage = usage
        self._cached = cached
        self._words = [w for w in WORDS if counter.count_text(f" {w}", deployment).tokens == 1] or list(WORDS)
        self._text = random.choices(self._words, k=LONGEST_TEXT)
        self._framing: dict[int | None, int] = {}

    def body(self, shape: Shape) -> tuple[bytes, int]:
        """Make a body, and give the tokens of its prompt."""
        framing = self._framing_of(shape.most)
        words = max(0, shape.prompt - framing)
        document = self._document(shape, self._prompt(words))
        return json.dumps(document, separators=(",", ":")).encode(), framing + words

    def _framing_of(self, most: int | None) -> int:
        """Count what there is besides the words."""
        found = self._framing.get(most)
        if found is None:
            document = self._document(Shape(0, most), " time")
            found = self._counter.count_request("chat.completions", document, self._deployment).tokens - 1
            self._framing[most] = found
        return found

    def _prompt(self, words: int) -> str:
        random, text = self._random, self._text
        fresh = [] if self._cached else random.choices(self._words, k=min(words, FRESH_WORDS))
        rest, start = words - len(fresh), 0 if self._cached else random.randrange(LONGEST_TEXT // 2)
        while rest > 0:
            fresh += text[start : start + rest]
            rest, start = words - len(fresh), 0
        return " " + " ".join(fresh) if fresh else ""

    def _document(self, shape: Shape, prompt: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        document: dict[str, Any] = {"model": self._deployment, "messages": messages, **self._members}
        if shape.most is not None:
            messages.append({"role": "user", "content": TASK.format(most=shape.most)})
            document["max_tokens"] = shape.most
        if shape.stream:
            document["stream"] = True
            if self._usage:
                document["stream_options"] = {"include_usage": True}
        return document
