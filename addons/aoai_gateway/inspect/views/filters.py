"""Content filter verdicts that are worth a word: everything but "safe".

Shapes as in Azure OpenAI's content filtering documentation: ``{category: {filtered, severity}}``,
``{category: {filtered, detected}}``, ``custom_blocklists`` with details, and an ``error`` where the filter
itself failed, for which captures have both ``content_filter_results`` and ``content_filter_result``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aoai_gateway.inspect.views.shapes import mapping, mappings, word


class Verdict(NamedTuple):
    """A line such as "violence (medium)", and whether it is why something was withheld."""

    text: str
    filtered: bool


def verdicts_of(holder: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts in a choice, a prompt's results or an error."""
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
