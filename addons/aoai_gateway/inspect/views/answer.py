"""What all kinds of answers have in common, and how it is laid out: what matters most comes first."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.filters import Verdict
from aoai_gateway.wire.usage import Usage

RULE = 72
_INLINE_ARGUMENTS = 60


@dataclass(slots=True)
class Part:
    """A piece of an answer: plain ``text``, or anything else under a title of its own."""

    kind: Literal["text", "titled", "json"]
    text: str
    title: str = ""


@dataclass(slots=True)
class Choice:
    """One of the answers that were asked for; most calls have one."""

    parts: list[Part] = field(default_factory=list)
    finish: str = ""
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """An answer, in the same form for all operations and dialects.

    ``error`` is a text of its own, for streams that failed after they had begun; ``notes`` are lines for
    below; ``broken`` says that the answer ended without its proper end.
    """

    choices: list[Choice] = field(default_factory=list)
    prompt_verdicts: list[Verdict] = field(default_factory=list)
    usage: Usage | None = None
    model: str = ""
    ident: str = ""
    error: str = ""
    broken: bool = False
    notes: list[str] = field(default_factory=list)


def lay_out(answer: Answer, facts: Facts) -> str:
    """Write an answer for people: a summary, what went wrong, the texts, the notes."""
    lines = [" · ".join(filter(None, [_ends(answer), *_tokens(answer, facts), *timing(facts)]))]
    lines.append(" · ".join(filter(None, [answer.model, *origin(facts), answer.ident])))
    lines += _warnings(answer)
    lines = [line for line in lines if line]
    single = len(answer.choices) == 1
    for number, choice in enumerate(answer.choices, 1):
        if not single:
            head = f"choice {number} of {len(answer.choices)}"
            lines += ["", rule(f"{head} · {choice.finish}" if choice.finish else head)]
        lines += _choice(choice, single)
    if answer.notes:
        lines += ["", rule("notes"), *answer.notes]
    return "\n".join(lines).strip("\n") + "\n"


def rule(title: str) -> str:
    """A line that divides, with a title in it."""
    return f"── {title} ".ljust(RULE, "─")


def timing(facts: Facts) -> list[str]:
    """Return how fast a stream was, in summary words, as far as it was noted."""
    words = []
    first = facts.number("gateway_first_content_ms")
    if first is not None:
        words.append(f"first token after {milliseconds(first)}")
    middle, longest = facts.number("gateway_chunk_gap_p50_ms"), facts.number("gateway_chunk_gap_max_ms")
    if middle is not None and longest is not None:
        words.append(
            f"gaps between chunks {milliseconds(middle)} (median), {milliseconds(longest)} (longest)"
        )
    return words


def origin(facts: Facts) -> list[str]:
    """Say which backend it came from, and after how many attempts."""
    backend, attempts = facts.name("gateway_backend"), facts.number("gateway_attempts")
    if not backend:
        return []
    return [f"from {backend}" + (f", attempt {attempts:.0f}" if attempts and attempts > 1 else "")]


def milliseconds(value: float) -> str:
    """A duration as people say it."""
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def pretty(arguments: str) -> str:
    """A tool call's arguments: over several lines if they are JSON and long, else as they came."""
    try:
        decoded = json.loads(arguments)
        if len(arguments) > _INLINE_ARGUMENTS and isinstance(decoded, dict | list):
            return json.dumps(decoded, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return arguments


def _ends(answer: Answer) -> str:
    if answer.error:
        return "FAILED"
    if answer.broken:
        return "BROKEN OFF"
    reasons = list(dict.fromkeys(choice.finish for choice in answer.choices if choice.finish))
    return ", ".join(reasons)


def _tokens(answer: Answer, facts: Facts) -> list[str]:
    usage = answer.usage
    if usage is None:
        # The gateway knows them all the same, where the client had not asked the stream for them.
        taken_, given_ = facts.number("gateway_tokens_in"), facts.number("gateway_tokens_out")
        if taken_ is None or given_ is None:
            return []
        usage = Usage(int(taken_), int(given_))
    taken = f"{usage.input_tokens:,} tokens in"
    if usage.cached_tokens:
        taken += f" ({usage.cached_tokens:,} cached)"
    if usage.cache_write_tokens:
        taken += f" ({usage.cache_write_tokens:,} written to the cache)"
    if facts.operation == "embeddings":
        return [taken]
    given = f"{usage.output_tokens:,} out"
    if usage.reasoning_tokens:
        given += f" ({usage.reasoning_tokens:,} reasoning)"
    return [taken + ", " + given]


def _warnings(answer: Answer) -> list[str]:
    warnings = []
    if answer.error:
        warnings.append(f"⚠ {answer.error}")
    if answer.broken:
        warnings.append("⚠ The answer ended without its proper end: what is here may not be all of it.")
    warnings += verdict_lines("the prompt", answer.prompt_verdicts)
    for number, choice in enumerate(answer.choices, 1):
        whose = "the answer" if len(answer.choices) == 1 else f"choice {number}"
        warnings += verdict_lines(whose, choice.verdicts)
        if choice.finish == "content_filter" and not any(verdict.filtered for verdict in choice.verdicts):
            warnings.append(f"⚠ FILTERED: {whose} was ended by the content filter.")
        elif choice.finish == "refusal":
            warnings.append(f"⚠ REFUSED: {whose} was ended by the model's own safeguards.")
        elif choice.finish in ("length", "max_output_tokens", "max_tokens", "model_context_window_exceeded"):
            warnings.append(f"⚠ {whose[0].upper()}{whose[1:]} was cut at its limit of tokens.")
    return warnings


def verdict_lines(whose: str, verdicts: list[Verdict]) -> list[str]:
    """Return what the content filter found: first what it withheld, then what it only remarked on."""
    lines = []
    if filtered := [verdict.text for verdict in verdicts if verdict.filtered]:
        lines.append(f"⚠ FILTERED: {whose}, for {', '.join(filtered)}.")
    if remarked := [verdict.text for verdict in verdicts if not verdict.filtered]:
        lines.append(f"Content filter on {whose}: {', '.join(remarked)}.")
    return lines


def _choice(choice: Choice, single: bool) -> list[str]:
    lines: list[str] = []
    shown = [part for part in choice.parts if part.text or part.kind != "text"]
    for number, part in enumerate(shown):
        if part.kind == "text":
            # After a titled part, the text needs a title too, or it would seem to belong there.
            title = "answer" if number or single else ""
        else:
            title = part.title
        if title:
            lines += ["", rule(title)]
        if part.text:
            lines.append(pretty(part.text) if part.kind == "json" else part.text)
    if not shown:
        lines += ["", "(The answer is empty.)"]
    return lines
