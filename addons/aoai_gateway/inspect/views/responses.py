"""Responses, as an object or as typed events -> an `Answer`.

A stream tells everything twice: in deltas, and in the item that is done, or the response that is completed.
The latter are taken where they have come; the deltas are what there is of an answer that broke off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_gateway.inspect.views.answer import Answer, Choice, Part, response_verdicts, sources
from aoai_gateway.inspect.views.errors import summary
from aoai_gateway.inspect.views.shapes import index, mapping, mappings, text, word
from aoai_gateway.inspect.views.sse import Events
from aoai_gateway.inspect.views.yaml_writer import YamlWriter
from aoai_gateway.wire.usage import read_usage

_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed", "response.done"))
_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "mcp_call": "arguments",
    "code_interpreter_call": "code",
}
"""Items that call a tool, and where they keep what they call it with."""

_DELTA_TITLES = {
    "reasoning_text": "reasoning",
    "reasoning_summary_text": "reasoning summary",
    "refusal": "refusal",
    "audio_transcript": "transcript of the audio",
    "output_audio_transcript": "transcript of the audio",
}
_ARGUMENT_DELTAS = frozenset(
    ("function_call_arguments", "custom_tool_call_input", "mcp_call_arguments", "code_interpreter_call_code")
)
_NO_TEXT = frozenset(("audio", "output_audio"))


def from_body(response: Mapping[str, Any]) -> Answer:
    """Read a response object."""
    answer = Answer(model=word(response.get("model")), ident=word(response.get("id")))
    answer.usage = read_usage(response.get("usage"))
    answer.prompt_verdicts, verdicts = response_verdicts(response)
    if response.get("error"):
        answer.error = summary(response["error"])
    status = word(response.get("status"))
    reason = word(mapping(response.get("incomplete_details")).get("reason"))
    parts = [part for item in mappings(response.get("output")) for part in item_parts(item)]
    answer.choices = [Choice(parts, f"{status}: {reason}" if reason else status, verdicts)]
    if reason in ("max_output_tokens", "content_filter"):
        answer.choices[0].finish = reason
    tier = word(response.get("service_tier"))
    if tier not in ("", "default", "auto"):
        answer.notes.append(f"Service tier: {tier}.")
    if previous := word(response.get("previous_response_id")):
        answer.notes.append(f"It continues {previous}.")
    return answer


def from_events(events: Events) -> Answer:
    """Read an event stream."""
    items: dict[int, _Item] = {}
    last: Mapping[str, Any] = {}
    error: object = None
    ended = False
    for name, body in events.named:
        response = mapping(body.get("response"))
        if response:
            last = response
        ended = ended or name in _TERMINAL
        if name == "error" or (body.get("error") and not response):
            error = body.get("error") or body
        elif name == "response.output_item.added" or name == "response.output_item.done":
            _at(items, body).item = mapping(body.get("item"))
            _at(items, body).done = name.endswith("done")
        elif name.endswith(".delta"):
            _at(items, body).take(name.removeprefix("response.").removesuffix(".delta"), body)
    answer = from_body(last)
    if not mappings(last.get("output")):
        parts = [part for _, item in sorted(items.items()) for part in item.parts()]
        answer.choices = [Choice(parts, answer.choices[0].finish, answer.choices[0].verdicts)]
    if error:
        answer.error = summary(error)
    answer.broken = not ended and not answer.error and not events.unread
    answer.notes += events.notes()
    return answer


def item_parts(item: Mapping[str, Any]) -> list[Part]:
    """Read one item of a response's output."""
    kind = word(item.get("type"))
    if kind == "message":
        return [part for content in mappings(item.get("content")) for part in _content(content)]
    if kind == "reasoning":
        summaries = [text(one.get("text")) for one in mappings(item.get("summary"))]
        full = [text(one.get("text")) for one in mappings(item.get("content"))]
        parts = [Part("titled", one, "reasoning summary") for one in summaries if one]
        parts += [Part("titled", one, "reasoning") for one in full if one]
        return parts
    if kind in _CALLS:
        return _call(kind, item)
    rest = {key: value for key, value in item.items() if key not in ("type", "id", "status")}
    title = " · ".join(filter(None, [kind.replace("_", " ") or "item", word(item.get("status"))]))
    return [Part("titled", as_yaml(rest) if rest else "", title)]


def as_yaml(value: Mapping[str, Any]) -> str:
    """A structure that has no form of its own here."""
    writer = YamlWriter(budget=20_000)
    for key, member in value.items():
        writer.member(word(key) or "?", member)
    return writer.text().rstrip("\n")


def _call(kind: str, item: Mapping[str, Any]) -> list[Part]:
    what = "tool call" if kind in ("function_call", "custom_tool_call") else kind.replace("_", " ")
    words = [f"{what} {word(item.get('name'))}".strip(), word(item.get("call_id")) or word(item.get("id"))]
    title = " · ".join(filter(None, words))
    parts = [Part("json", text(item.get(_CALLS[kind])), title)]
    if output := text(item.get("output")):
        parts.append(Part("titled", output, f"output of {what}"))
    return parts


def _content(content: Mapping[str, Any]) -> list[Part]:
    if refusal := text(content.get("refusal")):
        return [Part("titled", refusal, "refusal")]
    parts = []
    if said := text(content.get("text")):
        parts.append(Part("text", said))
    if transcript := text(content.get("transcript")):
        parts.append(Part("titled", transcript, "transcript of the audio"))
    return parts + sources(
        (word(one.get("title")), word(one.get("url")) or word(one.get("filename")))
        for one in mappings(content.get("annotations"))
    )


@dataclass(slots=True)
class _Item:
    """One item of the output, as it grows."""

    item: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False
    deltas: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    def take(self, kind: str, body: Mapping[str, Any]) -> None:
        place = index(body.get("content_index"), index(body.get("summary_index"), 0))
        if kind not in _NO_TEXT:
            self.deltas.setdefault((kind, place), []).append(text(body.get("delta")))

    def parts(self) -> list[Part]:
        if self.done or not self.deltas:
            return item_parts(self.item) if self.item else []
        parts = []
        for (kind, _), pieces in self.deltas.items():
            said = "".join(pieces)
            if kind in _ARGUMENT_DELTAS:
                member = _CALLS.get(word(self.item.get("type")), "arguments")
                called = {"type": "function_call", **self.item, member: said}
                parts += _call(_known_call(called), called)
            elif kind in _DELTA_TITLES:
                parts.append(Part("titled", said, _DELTA_TITLES[kind]))
            else:
                parts.append(Part("text", said))
        return parts


def _known_call(item: Mapping[str, Any]) -> str:
    kind = word(item.get("type"))
    return kind if kind in _CALLS else "function_call"


def _at(items: dict[int, _Item], body: Mapping[str, Any]) -> _Item:
    return items.setdefault(index(body.get("output_index"), 0), _Item())
