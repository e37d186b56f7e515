"""The facts of an answer by which two runs are compared, the same for all forms on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.inspect.views.answer import Answer as Shown
from aoai_gateway.inspect.views.completion import form_of, is_stream
from aoai_gateway.inspect.views.embeddings import vector_of
from aoai_gateway.inspect.views.errors import summary
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, mappings
from aoai_gateway.inspect.views.sse import read_events
from aoai_gateway.wire.usage import read_usage

type Vectors = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``error`` names the failure in a line, if there was one.

    ``text`` is all output of a model: its answers, reasoning, refusals, and the tools that it calls, without
    ids, which are never the same. ``plain`` is the first answer's text
    alone. ``vectors``: of embeddings.
    """

    status: int
    text: str = ""
    finish_reason: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""
    vectors: Vectors = ()
    plain: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the model has answered, to the end."""
        return self.status < 400 and not self.error


def read(operation: str, status: int, content_type: str, body: bytes) -> Answer:
    """Read an answer's decoded body of any content, without raising. ``operation``: its SDK name."""
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if status < 400 and is_stream(body, Facts(operation, content_type=media_type)):
            events = read_events(body)
            shown = form_of(operation).from_events(events)
            return _answer(status, shown)
        document = mapping(decode(body))
    except (Unreadable, RecursionError) as error:
        return Answer(status, error=f"an answer that is not JSON: {error}")
    if status >= 400 or (document.get("error") and operation != "responses"):
        return Answer(status, error=summary(document.get("error")))
    if operation == "embeddings":
        return _embeddings(status, document)
    return _answer(status, form_of(operation).from_body(document))


def closeness(one: Vectors, other: Vectors) -> float:
    """The least cosine of two vectors that belong together, from 0 to 1; 0 where they cannot be compared."""
    if len(one) != len(other) or not one:
        return 0.0
    least = 1.0
    for a, b in zip(one, other, strict=True):
        norms = math.hypot(*a) * math.hypot(*b)
        if len(a) != len(b) or not norms:
            return 0.0
        least = min(least, math.sumprod(a, b) / norms)
    return max(0.0, least)


def _answer(status: int, shown: Shown) -> Answer:
    texts = []
    for number, choice in enumerate(shown.choices, 1):
        if len(shown.choices) > 1:
            texts.append(f"[choice {number}]")
        for part in choice.parts:
            # A tool call's title ends with its id.
            title = part.title.partition(" · ")[0]
            texts += [f"[{title}]" if title else "", part.text]
    reasons = [choice.finish for choice in shown.choices if choice.finish]
    error = shown.error or ("it ended without its proper end" if shown.broken else "")
    usage = shown.usage
    return Answer(
        status,
        "\n".join(filter(None, texts)),
        ", ".join(dict.fromkeys(reasons)),
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        error,
        plain="".join(part.text for part in shown.choices[0].parts if part.kind == "text")
        if shown.choices
        else "",
    )


def _embeddings(status: int, document: Mapping[str, Any]) -> Answer:
    usage = read_usage(document.get("usage"))
    vectors = tuple(tuple(vector_of(one.get("embedding"))[0]) for one in mappings(document.get("data")))
    dimensions = {len(vector) for vector in vectors}
    return Answer(
        status,
        f"{len(vectors)} of {', '.join(map(str, sorted(dimensions)))} dimensions",
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        vectors=vectors,
    )
