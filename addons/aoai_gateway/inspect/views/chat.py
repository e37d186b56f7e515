"""Chat completions and completions, whole or in chunks -> an `Answer`.

Both forms say the same: a whole answer's ``message`` is what a stream's ``delta`` adds up to. So a whole
answer is read as a stream of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_gateway.inspect.views.answer import (
    Answer,
    Choice,
    Part,
    Verdict,
    add_new,
    prompt_verdicts,
    verdicts_of,
)
from aoai_gateway.inspect.views.attachments import byte_size
from aoai_gateway.inspect.views.errors import summary
from aoai_gateway.inspect.views.shapes import index, items, mapping, mappings, text, word
from aoai_gateway.inspect.views.sse import Events
from aoai_gateway.wire.usage import read_usage

_MOST_CHOICES = 256


@dataclass(slots=True)
class _Call:
    name: str = ""
    ident: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Collected:
    """One choice, as it grows."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    audio_characters: int = 0
    calls: dict[int, _Call] = field(default_factory=dict)
    finish: str = ""
    verdicts: list[Verdict] = field(default_factory=list)


def from_body(body: Mapping[str, Any]) -> Answer:
    """Read a JSON answer."""
    return _read([body])


def from_events(events: Events) -> Answer:
    """Read an event stream."""
    answer = _read(body for _, body in events.named)
    answer.broken = not events.done and not answer.error and not events.unread
    answer.notes += events.notes()
    return answer


def _read(chunks: Iterable[Mapping[str, Any]]) -> Answer:
    answer = Answer()
    choices: dict[int, _Collected] = {}
    tier = ""
    times: Mapping[str, Any] = {}
    for chunk in chunks:
        if chunk.get("error"):
            answer.error = summary(chunk["error"])
        answer.model = answer.model or word(chunk.get("model"))
        answer.ident = answer.ident or word(chunk.get("id"))
        answer.usage = read_usage(chunk.get("usage")) or answer.usage
        tier = word(chunk.get("service_tier")) or tier
        times = mapping(chunk.get("latency_checkpoint")) or times
        times = mapping(mapping(chunk.get("usage")).get("latency_checkpoint")) or times
        add_new(answer.prompt_verdicts, prompt_verdicts(chunk))
        for place, choice in enumerate(items(chunk.get("choices"))):
            if isinstance(choice, dict):
                number = index(choice.get("index"), place)
                if number in choices or len(choices) < _MOST_CHOICES:
                    _take(choices.setdefault(number, _Collected()), choice)
    answer.choices = [_finished(choices[number]) for number in sorted(choices)]
    if tier and tier != "default":
        answer.notes.append(f"Service tier: {tier}.")
    if said := ", ".join(f"{word(key).removesuffix('_ms')} {word(value)}" for key, value in times.items()):
        answer.notes.append(f"The service's own times, in ms: {said}.")
    return answer


def _take(collected: _Collected, choice: Mapping[str, Any]) -> None:
    said = mapping(choice.get("delta")) or mapping(choice.get("message"))
    collected.texts.append(_content(said.get("content")) or text(choice.get("text")))
    collected.reasoning.append(text(said.get("reasoning_content")) or text(said.get("reasoning")))
    collected.refusal.append(text(said.get("refusal")))
    audio = mapping(said.get("audio"))
    collected.transcript.append(text(audio.get("transcript")))
    collected.audio_characters += len(text(audio.get("data")))
    for place, call in enumerate(items(said.get("tool_calls"))):
        if isinstance(call, dict):
            _call(collected, index(call.get("index"), place), call)
    if mapping(said.get("function_call")):
        _call(collected, 0, {"function": said["function_call"]})
    collected.finish = word(choice.get("finish_reason")) or collected.finish
    add_new(collected.verdicts, verdicts_of(choice))


def _call(collected: _Collected, place: int, said: Mapping[str, Any]) -> None:
    call = collected.calls.setdefault(place, _Call())
    inner = mapping(said.get("function")) or mapping(said.get("custom"))
    call.ident = call.ident or word(said.get("id"))
    call.name = call.name or word(inner.get("name"))
    call.arguments.append(text(inner.get("arguments")) or text(inner.get("input")))


def _content(value: object) -> str:
    """A message's text; some servers send it in parts."""
    if isinstance(value, list):
        return "".join(text(part.get("text")) for part in mappings(value))
    return text(value)


def _finished(collected: _Collected) -> Choice:
    parts = []
    if reasoning := "".join(collected.reasoning):
        parts.append(Part("titled", reasoning, "reasoning"))
    if said := "".join(collected.texts):
        parts.append(Part("text", said))
    if refusal := "".join(collected.refusal):
        parts.append(Part("titled", refusal, "refusal"))
    if transcript := "".join(collected.transcript):
        parts.append(Part("titled", transcript, "transcript of the audio"))
    if collected.audio_characters:
        parts.append(Part("titled", "", f"audio, {byte_size(collected.audio_characters * 3 // 4)}"))
    for _, call in sorted(collected.calls.items()):
        title = " · ".join(filter(None, [f"tool call {call.name or '?'}", call.ident]))
        parts.append(Part("json", "".join(call.arguments), title))
    return Choice(parts, collected.finish, collected.verdicts)
