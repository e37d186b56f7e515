"""Bodies of chats with prompts of a given number of tokens, of which no two begin alike.

A prompt whose beginning a backend has seen is answered from its cache, and would measure that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from aoai_gateway.benchmark.plan import Shape

if TYPE_CHECKING:
    from aoai_gateway.tokens import Counter

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
    """Makes bodies for one deployment. ``members``: what each of them has besides (``temperature``)."""

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
