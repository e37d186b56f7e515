"""Usage objects: how many tokens a call took, in the several shapes that Azure OpenAI reports it.

Chat, completions and embeddings count ``prompt_tokens`` and ``completion_tokens``; responses and images
``input_tokens`` and ``output_tokens``; details may be missing, null, hold nulls, or have a singular name
(realtime, transcription). Reasoning tokens are part of the output, cached ones part of the input.

Anthropic counts beside each other what the others count within each other: its ``input_tokens`` are those of
the prompt that were neither read from the cache nor written to it ("Prompt caching", Anthropic's reference).
Here, as everywhere in the gateway, the input is all of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.wire.json_members import NotJsonError, read_document, without_member
from aoai_gateway.wire.references import LONGEST_ID
from aoai_gateway.wire.sse import LARGE_EVENT, SseEvent

_LARGEST_PLAUSIBLE = 10**12
_LONGEST_AUDIO = 7 * 24 * 3600
_LARGE_ANSWER = 65_536
_LONGEST_USAGE = 4_096

_SEARCHED = 256 * 1024
"""Bytes at either end of a large answer that are searched: the facts about the whole of it are there."""

_MOST_FOUND = 32
_LONGEST_TEXT = 256
_LONGEST_FACT = LONGEST_ID + 256
_BLANK = rb"[ \t\r\n]*+"
_OBJECT = re.compile(_BLANK + rb":" + _BLANK + rb"(?=\{)")
_STRING = re.compile(_BLANK + rb":" + _BLANK + rb'"([^"\\]{1,%d})"' % LONGEST_ID)
_IDS = (b"resp_", b"chatcmpl-", b"cmpl-", b"msg_")
_NOTHING: Mapping[str, Any] = {}
_BESIDE, _MOST_ITERATIONS = "compaction", 64
"""Anthropic's: what summed up the conversation within a call is not in the call's own figures."""
_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic's; servers that translate it send them beside ``prompt_tokens``, which include them."""


@dataclass(slots=True)
class Usage:
    """Tokens of one call. ``cached_tokens`` are within the input, ``reasoning_tokens`` within the output.

    It is never changed; not frozen, since that trebles the time to make one.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cache_write_tokens: int = 0
    """Of the input, what was put into the prompt cache, where that costs extra."""
    cached_audio_tokens: int = 0
    """Of the cached tokens, those of audio."""
    input_image_tokens: int = 0
    output_image_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """The tokens of both: of the responses of a session, for instance."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """The facts about a JSON answer; None or empty where it does not name them.

    ``model`` is the snapshot that answered (in the Responses API the deployment's name). ``finish_reasons``
    are the choices' in order; a response's is its status, or the reason why it is incomplete.
    ``service_tier`` is the tier that served it, ``status`` a response's. ``error``: the error object of an
    answer that is no success, with its code, type and message.
    """

    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    status: str | None = None
    error: Mapping[str, Any] | None = None
    service_tier: str | None = None
    seconds: float | None = None
    """How long the audio was that was transcribed, where the answer says so."""


def read_usage(usage: object) -> Usage | None:
    """The tokens of a decoded usage object of any shape; None when it holds no token counts."""
    if not isinstance(usage, dict):
        return None
    found = _read_counts(usage)
    iterations = usage.get("iterations")
    if found is None or not isinstance(iterations, list):
        return found
    beside = (each for each in iterations[:_MOST_ITERATIONS] if isinstance(each, dict))
    return sum(filter(None, (_read_counts(each) for each in beside if each.get("type") == _BESIDE)), found)


def _read_counts(usage: Mapping[str, Any]) -> Usage | None:
    """Read the usage that an object counts itself, without those beside it."""
    taken = _first_count(usage, "prompt_tokens", "input_tokens")
    given = _first_count(usage, "completion_tokens", "output_tokens")
    total = _count(usage.get("total_tokens"))
    if taken is None and given is None and total is None:
        return None
    if given is None and total is not None and taken is not None:
        given = max(0, total - taken)
    taken, given = taken or 0, given or 0
    taken_of = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    given_of = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    read, written = _count(usage.get(_CACHE[0])) or 0, _count(usage.get(_CACHE[1])) or 0
    if "prompt_tokens" not in usage and not taken_of:
        taken += read + written
    if not (taken_of or given_of or read or written):
        return Usage(taken, given, taken + given if total is None else total)
    return Usage(
        input_tokens=taken,
        output_tokens=given,
        total_tokens=taken + given if total is None else total,
        cached_tokens=_count(taken_of.get("cached_tokens")) or read or 0,
        reasoning_tokens=_first_count(given_of, "reasoning_tokens", "thinking_tokens") or 0,
        input_audio_tokens=_count(taken_of.get("audio_tokens")) or 0,
        output_audio_tokens=_count(given_of.get("audio_tokens")) or 0,
        cache_write_tokens=_count(taken_of.get("cache_write_tokens")) or written or 0,
        cached_audio_tokens=_count(_details(taken_of, "cached_tokens_details").get("audio_tokens")) or 0,
        input_image_tokens=_count(taken_of.get("image_tokens")) or 0,
        output_image_tokens=_count(given_of.get("image_tokens")) or 0,
    )


def read_answer(raw: bytes) -> AnswerFacts:
    """The facts of a JSON answer's body; all absent when it is not JSON or not an object.

    A large one, with megabytes of embeddings or log probabilities, would hold up everything else for as long
    as it takes to decode. It is searched instead (`search_answer`).
    """
    if len(raw) > _LARGE_ANSWER:
        return search_answer(raw)
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return AnswerFacts()
    return facts_of(document)


def search_answer(raw: bytes) -> AnswerFacts:
    """The facts of an answer, or of a stream's event, that is too large to be decoded.

    Keys are searched at both ends of it, each byte at most once per key, and of each key the first or last
    few. Keys in strings have escaped quotes; keys of nested objects could be taken for the answer's own, so
    the value has to look like it, and the one nearest to the end counts.
    """
    raw = raw if len(raw) <= 2 * _SEARCHED else raw[:_SEARCHED] + raw[-_SEARCHED:]
    ids = [text for text in _strings(raw, b'"id"') if text.startswith(_IDS)]
    reasons = _strings(raw, b'"finish_reason"') or _strings(raw, b'"stop_reason"')
    status = None
    if ids and ids[0].startswith(b"resp_"):
        head = raw[: _LONGEST_USAGE * 2]
        status = next(iter(_strings(head, b'"status"')), None)
        reasons = _strings(head, b'"reason"') or ([status] if status else [])
    models = _strings(raw, b'"model"')
    return AnswerFacts(
        usage=_find_usage(raw),
        model=_plain(models[-1]) if models else None,
        response_id=ids[0].decode(errors="replace") if ids else None,
        finish_reasons=tuple(_plain(reason) for reason in reasons),
        status=_plain(status) if status else None,
    )


def facts_of(document: object) -> AnswerFacts:
    """The facts of a decoded answer: a chat completion, a completion, embeddings, a response or a message."""
    if not isinstance(document, dict):
        return AnswerFacts()
    return AnswerFacts(
        usage=read_usage(document.get("usage")),
        model=_text(document.get("model")),
        response_id=_text(document.get("id"), LONGEST_ID),
        finish_reasons=_finish_reasons(document),
        status=_text(document.get("status")),
        error=error if isinstance(error := document.get("error"), dict) and error else None,
        service_tier=_text(document.get("service_tier")) or _tier_in(document.get("usage")),
        seconds=_duration(document),
    )


def _duration(document: Mapping[str, Any]) -> float | None:
    """The seconds of a transcript: its usage by duration, or those that ``verbose_json`` names."""
    usage = document.get("usage")
    named = usage.get("seconds") if isinstance(usage, dict) and usage.get("type") == "duration" else None
    seconds = document.get("duration") if named is None and "text" in document else named
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return float(seconds) if 0 <= seconds <= _LONGEST_AUDIO else None


def _finish_reasons(document: Mapping[str, Any]) -> tuple[str, ...]:
    choices = document.get("choices")
    if isinstance(choices, list):
        reasons = [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
        return tuple(reason for reason in reasons if isinstance(reason, str))
    if document.get("type") == "message":
        reason = _text(document.get("stop_reason"))
        return (reason,) if reason else ()
    if document.get("object") != "response":
        return ()
    incomplete = document.get("incomplete_details")
    reason = incomplete.get("reason") if isinstance(incomplete, dict) else None
    status = _text(reason) or _text(document.get("status"))
    return (status,) if status else ()


def _tier_in(usage: object) -> str | None:
    """The tier as Anthropic names it; what it calls standard is the default."""
    tier = _text(usage.get("service_tier")) if isinstance(usage, dict) else None
    return "default" if tier == "standard" else tier


def _find_usage(raw: bytes) -> Usage | None:
    # An unescaped "usage": is a key. The last one with counts is the answer's own; others could only be
    # echoes of the request, such as a tool's schema, and hold no counts.
    at = len(raw)
    for _ in range(_MOST_FOUND):
        at = raw.rfind(b'"usage"', 0, at)
        if at < 0:
            return None
        opening = _OBJECT.match(raw, at + len(b'"usage"'), at + _LONGEST_FACT)
        if opening is not None:
            usage = _decode_usage(raw[opening.end() : opening.end() + _LONGEST_USAGE])
            if usage is not None:
                return usage
    return None


def _strings(raw: bytes, key: bytes) -> list[bytes]:
    """The values of a key that are short strings without escapes: the first ones, and the last ones."""
    found: dict[int, bytes] = {}
    at = -1
    for _ in range(_MOST_FOUND):
        at = raw.find(key, at + 1)
        if at < 0:
            break
        _add_string(found, raw, at, key)
    end = len(raw)
    for _ in range(_MOST_FOUND):
        end = raw.rfind(key, 0, end)
        if end <= at or end < 0:
            break
        _add_string(found, raw, end, key)
    return [found[place] for place in sorted(found)]


def _add_string(found: dict[int, bytes], raw: bytes, at: int, key: bytes) -> None:
    value = _STRING.match(raw, at + len(key), at + _LONGEST_FACT)
    if value is not None:
        found[at] = value[1]


def _plain(text: bytes) -> str:
    return text[:_LONGEST_TEXT].decode(errors="replace")


def _decode_usage(raw: bytes) -> Usage | None:
    try:
        usage, _ = json.JSONDecoder().raw_decode(raw.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return read_usage(usage)


def _first_count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        count = _count(usage.get(name))
        if count is not None:
            return count
    return None


def _count(value: object) -> int | None:
    # The type itself, since a bool is an int, too.
    return value if type(value) is int and 0 <= value <= _LARGEST_PLAUSIBLE else None


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = usage.get(name)
        if isinstance(found, dict):
            return found
    return _NOTHING


def _text(value: object, longest: int = _LONGEST_TEXT) -> str | None:
    return value[:longest] if isinstance(value, str) and value else None


# --- usage that no client asked for ----------------------------------------------------------------------


def without_usage(event: SseEvent) -> bytes:
    """The event's bytes without the ``usage`` member of its data's top level."""
    raw, data = event.raw, event.data
    if len(raw) > LARGE_EVENT and (b'"usage":null' not in raw or raw.count(b'"usage"') > 1):
        return raw  # to find it among others, all of the event would have to be decoded
    before, found, after = raw.partition(b',"usage":null')
    if found and after.find(b'"usage"') < 0 and before.find(b'"usage"') < 0:
        # include_usage puts it at the top level of every chunk; so the only one there is, is that.
        return before + after
    if data not in raw:
        return raw  # data over several lines: no server sends JSON so
    try:
        text = data.decode()
        kept = without_member(text, read_document(text), "usage")
    except (UnicodeDecodeError, NotJsonError):
        return raw
    return raw.replace(data, kept.encode(), 1)
