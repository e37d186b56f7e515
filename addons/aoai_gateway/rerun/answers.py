"""The facts of an answer, the same for all forms on the wire, and the differences between two answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
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


# --- comparison ------------------------------------------------------------------------------------------

MOST_PIECES = 2_000
"""Words and the white space between them, of each answer; the rest is compared as one piece. To find
differences takes the square of it."""

CHANGES_SHOWN = 4
CONTEXT = 10
LONGEST_CHANGE = 50
"""Pieces."""

ALIKE_VECTORS = 0.9999
"""The least cosine of embeddings that count as the same: their last digits vary from call to call."""

_PIECES = re.compile(r"\s+|\S+")


class Verdict(StrEnum):
    """The verdict on a call."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
    """The answer that was there is gone."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``alike``: how much of the text is the same, from 0 to 1; ``changes``: a line each."""

    verdict: Verdict
    alike: float
    changes: tuple[str, ...] = ()


def compare(then: Answer, now: Answer) -> Comparison:
    """Compare an answer with an earlier one."""
    if now.error and then.is_good:
        status = f"{now.status} " if now.status >= 400 else ""
        return Comparison(Verdict.FAILED, 0.0, (status + now.error,))
    changes = []
    if then.status != now.status:
        changes.append(f"status: {then.status} → {now.status}")
    if then.finish_reason != now.finish_reason:
        changes.append(f"finish reason: {then.finish_reason or '–'} → {now.finish_reason or '–'}")
    if _code(then) != _code(now):
        changes.append(f"error: {then.error or '–'} → {now.error or '–'}")
    if then.vectors or now.vectors:
        alike = closeness(then.vectors, now.vectors)
        if then.text != now.text:
            changes.append(f"{then.text} → {now.text}")
        elif alike < ALIKE_VECTORS:
            changes.append(f"the vectors' least cosine is {alike:.6f}")
    else:
        alike, differences = compare_texts(then.text, now.text)
        changes += differences
    return Comparison(Verdict.DIFFERENT if changes else Verdict.SAME, alike, tuple(changes))


def _code(answer: Answer) -> str:
    # A message may name a request's id or a time.
    return answer.error.partition(":")[0]


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


def compare_texts(then: str, now: str) -> tuple[float, list[str]]:
    """Return how much of two texts is the same, and the first differences, each amid the words around it.

    Removed words are in ``[-…-]``, new ones in ``{+…+}``.
    """
    if then == now:
        return 1.0, []
    one, other = _pieces(then), _pieces(now)
    # White space counts, since code and tables may be in it; but it is everywhere, so no match begins there.
    matcher = SequenceMatcher(str.isspace, one, other, autojunk=False)
    lines: list[str] = []
    more = 0
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        if len(lines) == CHANGES_SHOWN:
            more += 1
            continue
        before, after = one[max(0, i - CONTEXT) : i], one[i_end : i_end + CONTEXT]
        gone, new = _shortened(one[i:i_end]), _shortened(other[j:j_end])
        line = "".join(
            [
                "… " if i > CONTEXT else "",
                _line(before),
                f" [-{gone}-]" if gone else "",
                f" {{+{new}+}}" if new else "",
                " ",
                _line(after),
                " …" if i_end + CONTEXT < len(one) else "",
            ]
        )
        lines.append(line.strip())
    if more:
        lines.append(f"and {more} more difference{'s' if more > 1 else ''}")
    return matcher.ratio(), lines


def _pieces(text: str) -> list[str]:
    pieces = _PIECES.findall(text)
    if len(pieces) > MOST_PIECES:
        pieces[MOST_PIECES:] = ["".join(pieces[MOST_PIECES:])]
    return pieces


def _shortened(pieces: list[str]) -> str:
    if len(pieces) <= LONGEST_CHANGE:
        return _line(pieces)
    half = LONGEST_CHANGE // 2
    return f"{_line(pieces[:half])} … {_line(pieces[-half:])}"


def _line(pieces: list[str]) -> str:
    text = "".join(pieces)
    line = text.strip() or text.replace("\n", "⏎")
    return line.replace("\n", "⏎ ")[:400]
