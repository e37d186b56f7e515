"""The parameters that each operation knows; AOAI refuses a request with any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_simulator.replies import InvalidError

_COMMON = frozenset(("model", "user"))
KNOWN: Mapping[str, frozenset[str]] = {
    "chat/completions": _COMMON
    | frozenset(
        [
            "messages",
            "audio",
            "data_sources",
            "enhancements",
            "frequency_penalty",
            "function_call",
            "functions",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "metadata",
            "modalities",
            "moderation",
            "n",
            "parallel_tool_calls",
            "prediction",
            "presence_penalty",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "response_format",
            "safety_identifier",
            "seed",
            "service_tier",
            "stop",
            "store",
            "stream",
            "stream_options",
            "temperature",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
            "user_security_context",
            "verbosity",
            "web_search_options",
        ]
    ),
    "completions": _COMMON
    | frozenset(
        [
            "prompt",
            "best_of",
            "echo",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_tokens",
            "n",
            "presence_penalty",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "suffix",
            "temperature",
            "top_p",
        ]
    ),
    "embeddings": _COMMON | frozenset(["input", "dimensions", "encoding_format", "input_type"]),
    "responses": _COMMON
    | frozenset(
        [
            "input",
            "access_programs",
            "background",
            "background_options",
            "client_metadata",
            "context_management",
            "conversation",
            "image",
            "include",
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "metadata",
            "moderation",
            "parallel_tool_calls",
            "previous_response_id",
            "prompt",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning",
            "safety_identifier",
            "service_tier",
            "store",
            "stream",
            "stream_options",
            "temperature",
            "text",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
            "truncation",
            "user_security_context",
        ]
    ),
}


def check_names(operation: str, body: Mapping[str, Any], *, v1: bool) -> None:
    """Raise InvalidError for a parameter that the operation does not know."""
    unknown = [name for name in body if name not in KNOWN[operation]]
    if not unknown:
        return
    if v1 or operation == "responses":
        message = f"Unknown parameter: '{unknown[0]}'."
        raise InvalidError(message, param=unknown[0], code="unknown_parameter")
    noun = "argument" if len(unknown) == 1 else "arguments"
    raise InvalidError(f"Unrecognized request {noun} supplied: {', '.join(unknown)}")
