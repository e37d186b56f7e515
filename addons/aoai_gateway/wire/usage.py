"""Usage objects: how many tokens a call took, in the several shapes that Azure OpenAI reports it.

Chat, completions and embeddings count ``prompt_tokens`` and ``completion_tokens``; responses and images
``input_tokens`` and ``output_tokens``; details may be missing, null, hold nulls, or have a singular name
(realtime, transcription). Reasoning tokens are part of the output, cached ones part of the input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LARGEST_PLAUSIBLE = 10**12
_LARGE_ANSWER = 65_536
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*(?=\{)')
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
_LONGEST_USAGE = 4_096


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. ``cached_tokens`` are within the input, ``reasoning_tokens`` within the output."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What a JSON answer says of itself; None or empty where it does not.

    ``model`` is the snapshot that answered (in the Responses API the deployment's name). ``finish_reasons``
    are the choices' in order; a response's is its status, or the reason why it is incomplete.
    """

    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()


def read_usage(usage: object) -> Usage | None:
    """The tokens of a decoded usage object of any shape; None when it holds no token counts."""
    if not isinstance(usage, Mapping):
        return None
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
    return Usage(
        input_tokens=taken,
        output_tokens=given,
        total_tokens=taken + given if total is None else total,
        cached_tokens=_count(taken_of.get("cached_tokens")) or 0,
        reasoning_tokens=_count(given_of.get("reasoning_tokens")) or 0,
        input_audio_tokens=_count(taken_of.get("audio_tokens")) or 0,
        output_audio_tokens=_count(given_of.get("audio_tokens")) or 0,
    )


def usage_of_response(raw: bytes) -> Usage | None:
    """The usage in a JSON answer's body; None when there is none, whatever the body is.

    Of a large body only the usage object itself is decoded.
    """
    return _find_usage(raw) if len(raw) > _LARGE_ANSWER else read_answer(raw).usage


def read_answer(raw: bytes) -> AnswerFacts:
    """The facts of a JSON answer's body; all absent when it is not JSON or not an object.

    Embeddings can be megabytes of numbers, and would hold up everything else for as long as it takes to
    decode them. A large answer of that kind is searched for its model and usage.
    """
    if len(raw) > _LARGE_ANSWER and b'"embedding"' in raw[:_LONGEST_USAGE]:
        models = _MODEL.findall(raw)
        return AnswerFacts(_find_usage(raw), models[-1].decode(errors="replace") if models else None)
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return AnswerFacts()
    return facts_of(document)


def facts_of(document: object) -> AnswerFacts:
    """The facts of a decoded answer: a chat completion, a completion, embeddings or a response."""
    if not isinstance(document, Mapping):
        return AnswerFacts()
    return AnswerFacts(
        usage=read_usage(document.get("usage")),
        model=_text(document.get("model")),
        response_id=_text(document.get("id")),
        finish_reasons=_finish_reasons(document),
    )


def _finish_reasons(document: Mapping[str, Any]) -> tuple[str, ...]:
    choices = document.get("choices")
    if isinstance(choices, list):
        reasons = [choice.get("finish_reason") for choice in choices if isinstance(choice, Mapping)]
        return tuple(reason for reason in reasons if isinstance(reason, str))
    if document.get("object") != "response":
        return ()
    incomplete = document.get("incomplete_details")
    reason = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    status = _text(reason) or _text(document.get("status"))
    return (status,) if status else ()


def _find_usage(raw: bytes) -> Usage | None:
    # An unescaped "usage": is a key. The last one with counts is the answer's own; others could only be
    # echoes of the request, such as a tool's schema, and hold no counts.
    for match in reversed(list(_USAGE_KEY.finditer(raw))):
        usage = _decode_usage(raw[match.end() : match.end() + _LONGEST_USAGE])
        if usage is not None:
            return usage
    return None


def _decode_usage(raw: bytes) -> Usage | None:
    try:
        usage, _ = json.JSONDecoder().raw_decode(raw.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return read_usage(usage)


def _first_count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LARGEST_PLAUSIBLE else None


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := usage.get(name), Mapping)), {})


def _text(value: object) -> str | None:
    return value[:256] if isinstance(value, str) and value else None
