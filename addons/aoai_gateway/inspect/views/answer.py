"""What all kinds of answers have in common, content filter verdicts included, and how it is laid out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import mapping, mappings, word
from aoai_gateway.wire.usage import Usage


class Verdict(NamedTuple):
    """What a content filter found worth a word, which is everything but "safe".

    ``text`` is such as "violence (medium)"; ``filtered``: whether it is why something was withheld.
    """

    text: str
    filtered: bool


def verdicts_of(holder: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts in a choice, a prompt's results or an error.

    Shapes as in Azure OpenAI's content filtering documentation: ``{category: {filtered, severity}}``,
    ``{category: {filtered, detected}}``, ``custom_blocklists`` with details, and an ``error`` where the
    filter itself failed, for which captures have both names.
    """
    found = []
    for name in ("content_filter_results", "content_filter_result"):
        for category, result in mapping(holder.get(name)).items():
            if verdict := _verdict(word(category), result):
                found.append(verdict)
    return found


def prompt_verdicts(body: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts on the prompt in a chunk or answer; older API versions call them annotations."""
    found = []
    for name in ("prompt_filter_results", "prompt_annotations"):
        for result in mappings(body.get(name)):
            found += verdicts_of(result)
    return found


def response_verdicts(response: Mapping[str, Any]) -> tuple[list[Verdict], list[Verdict]]:
    """The verdicts on the prompt and on the answer in a Responses object."""
    prompt: list[Verdict] = []
    answer: list[Verdict] = []
    for one in mappings(response.get("content_filters")):
        found = verdicts_of(one)
        if one.get("blocked") is True and not any(verdict.filtered for verdict in found):
            found.append(Verdict("blocked", True))
        (prompt if one.get("source_type") == "prompt" else answer).extend(found)
    return prompt, answer


def add_new(verdicts: list[Verdict], more: list[Verdict]) -> None:
    """Add those that are not there yet: a stream repeats them in every chunk."""
    verdicts.extend(verdict for verdict in more if verdict not in verdicts)


def _verdict(category: str, result: object) -> Verdict | None:
    said = mapping(result)
    name = category.replace("_", " ")
    filtered = said.get("filtered") is True
    if category == "error":
        return Verdict(f"the filter failed: {word(said.get('message')) or word(said.get('code'))}", False)
    severity = word(said.get("severity"))
    if severity and severity != "safe":
        return Verdict(f"{name} ({severity})", filtered)
    if said.get("detected") is True:
        return Verdict(f"{name} detected", filtered)
    return Verdict(name, True) if filtered else None


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


def sources(named: Iterable[tuple[str, str]]) -> list[Part]:
    """Return a part with the titles and addresses that an answer cites, each of them once."""
    lines = dict.fromkeys(" ".join(filter(None, each)) for each in named)
    return [Part("titled", "\n".join(filter(None, lines)), "sources")] if any(lines) else []


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
