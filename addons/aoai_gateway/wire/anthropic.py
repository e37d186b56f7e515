"""The dialect of Anthropic's Messages API, as Claude speaks it on Azure: errors, and the events of streams.

From Anthropic's API reference ("Errors", "Streaming messages") and its SDKs. An answer is a ``message``: its
content is a list of blocks. A stream has ``message_start`` with the message less its content, for each block
``content_block_start``, ``…_delta`` and ``…_stop``, then ``message_delta`` with the reason why it ended and
the usage until then, and ``message_stop``. A ``ping`` may come anywhere, and so may an ``error``, after which
nothing comes. Events of types that are not known are to be expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.sse import HEAD, LARGE_EVENT, SseEvent, decoded, type_of
from aoai_gateway.wire.stream_kinds import Kind, Reading
from aoai_gateway.wire.usage import AnswerFacts, Usage, facts_of, read_usage, search_answer

# --- errors ----------------------------------------------------------------------------------------------

_ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Status → type ("HTTP errors", Anthropic's reference); 408, 431 and 503, which it lacks, by meaning."""


def error_type(status: int) -> str:
    """The ``type`` of an error with this status."""
    return _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def error_object(error: GatewayError, request_id: str | None = None) -> dict[str, Any]:
    """An error in Anthropic's shape. Its SDKs find the gateway's code as ``error_code``."""
    details = {"error_code": error.code}
    if error.param is not None:
        details["param"] = error.param
    written = {"type": error_type(error.status), "message": error.message, "details": details}
    return {"type": "error", "error": written, "request_id": request_id}


def error_body(error: GatewayError, request_id: str | None = None) -> bytes:
    """The body of a response, in ASCII."""
    return json.dumps(error_object(error, request_id)).encode()


def error_event(error: GatewayError) -> bytes:
    """The event that tells of an error in the middle of a stream; the SDKs raise for its name."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


# --- models ----------------------------------------------------------------------------------------------


def model(name: str) -> dict[str, Any]:
    """A model's entry. The time is the one for "unknown" of Anthropic's reference."""
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def model_list(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of them, on one page."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {}
    return {"data": models, "has_more": False, "first_id": None, "last_id": None, **ends}


# --- streams ---------------------------------------------------------------------------------------------

_PREAMBLE = frozenset({b"ping", b"content_block_stop"})
_DELTA = Reading(Kind.CONTENT, delivers=True)


LONGEST_REASON = 64

_OF_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_FIGURES = (*_OF_PROMPT, "output_tokens", "output_tokens_details", "iterations")
_ERRORS = re.compile(rb'"(api_error|overloaded_error|rate_limit_error|timeout_error)"')
"""Those that would be replayed as a status."""


class MessageEvents:
    """Reads the events of one message.

    The usage in ``message_start`` is that of the prompt; the answer's stands in ``message_delta``, as a sum.
    Of a stream that breaks off before, what came of the answer is to be counted.
    """

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self._reason = ""

    @property
    def prompt(self) -> Usage | None:
        """The usage of the prompt, which the beginning tells."""
        return read_usage({name: self._usage[name] for name in _OF_PROMPT if name in self._usage})

    @property
    def is_finished(self) -> bool:
        """Whether the reason has come why the message ended."""
        return bool(self._reason)

    def read(self, event: SseEvent, *, accepted: bool) -> Reading:
        """Return what an event with data means."""
        name = event.event or type_of(event.data)
        match name:
            case b"content_block_delta":
                return _DELTA
            case b"content_block_start":
                hollow = not accepted and _is_hollow(event.data)
                return Reading(Kind.PREAMBLE if hollow else Kind.CONTENT, delivers=not hollow)
            case b"message_start":
                return Reading(Kind.PREAMBLE, self._start(event.data))
            case b"message_delta":
                return Reading(Kind.CONTENT, self._delta(event.data))
            case b"message_stop":
                return Reading(Kind.TERMINAL)
            case b"error":
                return Reading(Kind.ERROR, error=_error_in(event.data))
        return Reading(Kind.PREAMBLE if name in _PREAMBLE else Kind.CONTENT)

    def _start(self, data: bytes) -> AnswerFacts:
        if len(data) > LARGE_EVENT:
            facts = search_answer(data)
            return AnswerFacts(model=facts.model, response_id=facts.response_id)
        message = (decoded(data) or {}).get("message")
        if not isinstance(message, Mapping):
            return AnswerFacts()
        self._add_usage(message.get("usage"))
        facts = facts_of(message)
        return AnswerFacts(model=facts.model, response_id=facts.response_id, service_tier=facts.service_tier)

    def _delta(self, data: bytes) -> AnswerFacts:
        body = decoded(data) or {}
        self._add_usage(body.get("usage"))
        delta = body.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, Mapping) else None
        if isinstance(reason, str):
            self._reason = reason
        reasons = (reason[:LONGEST_REASON],) if isinstance(reason, str) else ()
        return AnswerFacts(usage=read_usage(self._usage), finish_reasons=reasons)

    def _add_usage(self, usage: object) -> None:
        """The newest figures count; a null says nothing. No more is kept than what is read of them."""
        if isinstance(usage, Mapping):
            self._usage.update({name: usage[name] for name in _FIGURES if usage.get(name) is not None})


def _is_hollow(data: bytes) -> bool:
    """Whether the beginning of a block has nothing in it: a text or thinking that is still to come."""
    block = (decoded(data) or {}).get("content_block")
    return isinstance(block, Mapping) and not any(value for key, value in block.items() if key != "type")


def _error_in(data: bytes) -> Mapping[str, object]:
    if len(data) > LARGE_EVENT:
        found = _ERRORS.search(data[:HEAD])
        return {"type": found[1].decode()} if found else {}
    error = (decoded(data) or {}).get("error")
    return error if isinstance(error, Mapping) else {}
