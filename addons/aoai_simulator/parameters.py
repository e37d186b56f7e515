"""Parameters of a call: which are known, their ranges, and AOAI's 400 for any other name or value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_simulator import models
from aoai_simulator.replies import InvalidError

_NAMES = {
    "chat/completions": """
        messages audio data_sources enhancements frequency_penalty function_call functions logit_bias
        logprobs max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls
        prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention
        reasoning_effort response_format safety_identifier seed service_tier stop store stream
        stream_options temperature tool_choice tools top_logprobs top_p user_security_context verbosity
        web_search_options
    """,
    "completions": """
        prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop
        stream stream_options suffix temperature top_p
    """,
    "embeddings": "input dimensions encoding_format input_type",
    "responses": """
        input access_programs background background_options client_metadata context_management conversation
        image include instructions max_output_tokens max_tool_calls metadata moderation parallel_tool_calls
        previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
        safety_identifier service_tier store stream stream_options temperature text tool_choice tools
        top_logprobs top_p truncation user_security_context
    """,
}
_KNOWN: Mapping[str, frozenset[str]] = {
    operation: frozenset(("model", "user", *names.split())) for operation, names in _NAMES.items()
}


def check_names(operation: str, body: Mapping[str, Any], *, v1: bool) -> None:
    """Raise InvalidError for a parameter that the operation does not know."""
    unknown = [name for name in body if name not in _KNOWN[operation]]
    if not unknown:
        return
    if v1 or operation == "responses":
        message = f"Unknown parameter: '{unknown[0]}'."
        raise InvalidError(message, param=unknown[0], code="unknown_parameter")
    noun = "argument" if len(unknown) == 1 else "arguments"
    raise InvalidError(f"Unrecognized request {noun} supplied: {', '.join(unknown)}")


MAX_CHOICES = 128
MAX_STOPS = 4
MAX_TOKENS = 10**9

_SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority")
_VERBOSITIES = ("low", "medium", "high")

_DECIMALS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_INTEGERS: Mapping[str, tuple[int, int]] = {
    "n": (1, MAX_CHOICES),
    "best_of": (1, MAX_CHOICES),
    "max_tokens": (1, MAX_TOKENS),
    "max_completion_tokens": (1, MAX_TOKENS),
    "max_output_tokens": (1, MAX_TOKENS),
    "top_logprobs": (0, 20),
    "seed": (-(2**63), 2**63 - 1),
}
_NOT_READ_BY: Mapping[str, frozenset[str]] = {
    "responses": frozenset(
        (
            "n",
            "best_of",
            "seed",
            "max_tokens",
            "max_completion_tokens",
            "presence_penalty",
            "frequency_penalty",
        )
    ),
    "embeddings": frozenset((*_DECIMALS, *_INTEGERS)),
}
_BOOLEANS = ("stream", "parallel_tool_calls", "store", "background", "echo")
_MAX_TOKENS = {
    "chat/completions": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "embeddings": (),
}
_DEFAULT_ONLY = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""Parameters of which reasoning models take no other value (Azure's "Reasoning models", "Not supported")."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The form of an answer that a call asks for. `top_logprobs` is None where no logprobs are wanted."""

    max_tokens: int | None
    choices: int
    best_of: int
    stop: tuple[str, ...]
    top_logprobs: int | None
    service_tier: str


def read_sampling(operation: str, body: Mapping[str, Any], model: str) -> Sampling:
    """Read and check the parameters; raises InvalidError."""
    skipped = _NOT_READ_BY.get(operation, frozenset())
    for name, (least, most) in _DECIMALS.items():
        if name not in skipped:
            _decimal(body, name, least, most)
    found = {
        name: None if name in skipped else _integer(body, name, least, most)
        for name, (least, most) in _INTEGERS.items()
    }
    for name in _BOOLEANS:
        if not isinstance(body.get(name, False), bool | None):
            raise wrong_type(name, "a boolean", body[name])
    if operation == "chat/completions" and body.get("max_tokens") and body.get("max_completion_tokens"):
        raise InvalidError(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    if operation == "chat/completions" and models.reasons(model):
        _check_reasoning(body)
    limits = [found[name] for name in _MAX_TOKENS[operation] if found[name] is not None]
    return Sampling(
        max_tokens=limits[0] if limits else None,
        choices=found["n"] or 1,
        best_of=found["best_of"] or 1,
        stop=_stop(operation, body),
        top_logprobs=_logprobs(operation, body, found["top_logprobs"]),
        service_tier=_service_tier(body),
    )


def wrong_type(name: str, wanted: str, value: object) -> InvalidError:
    """400 for a value of a wrong type."""
    return InvalidError(
        f"Invalid type for '{name}': expected {wanted}, but got {_article(value)} instead.",
        param=name,
        code="invalid_type",
    )


def one_of(
    body: Mapping[str, Any], name: str, allowed: tuple[str, ...], where: str | None = None
) -> str | None:
    """A member that has one of some values, or is absent; `where` is its path if it is not `name`."""
    value = body.get(name)
    if value is None:
        return None
    path = where or name
    if not isinstance(value, str):
        raise wrong_type(path, f"one of {_listed(allowed)}", value)
    if value not in allowed:
        message = f"Invalid value: '{value}'. Supported values are: {_listed(allowed)}."
        raise InvalidError(message, param=path, code="invalid_value")
    return value


def _listed(names: tuple[str, ...]) -> str:
    quoted = [f"'{name}'" for name in names]
    return " and ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))


def _article(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _decimal(body: Mapping[str, Any], name: str, least: float, most: float) -> None:
    value = body.get(name)
    if value is not None:
        if type(value) not in (int, float):
            raise wrong_type(name, "a decimal", value)
        _in_range(name, value, least, most, "decimal")


def _integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise wrong_type(name, "an integer", value)
    _in_range(name, value, least, most, "integer")
    return value


def _in_range(name: str, value: float, least: float, most: float, kind: str) -> None:
    if value < least:
        side, code, relation, bound = "below minimum", "below_min", ">=", least
    elif value > most:
        side, code, relation, bound = "above maximum", "above_max", "<=", most
    else:
        return
    raise InvalidError(
        f"Invalid '{name}': {kind} {side} value. Expected a value {relation} {bound}, but got {value:.15g}"
        " instead.",
        param=name,
        code=f"{kind}_{code}_value",
    )


def _check_reasoning(body: Mapping[str, Any]) -> None:
    """Refuse the parameters that Azure's reasoning models refuse."""
    if body.get("max_tokens") is not None:
        raise InvalidError(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
            " 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    for name, default in _DEFAULT_ONLY.items():
        value = body.get(name)
        if value is not None and value != default:
            raise InvalidError(
                f"Unsupported value: '{name}' does not support {value} with this model. Only the default"
                f" ({default}) value is supported.",
                param=name,
                code="unsupported_value",
            )
    for name in ("logprobs", "top_logprobs", "logit_bias"):
        if body.get(name):
            raise InvalidError(
                f"Unsupported parameter: '{name}' is not supported with this model.",
                param=name,
                code="unsupported_parameter",
            )


def _stop(operation: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    if value is None or operation not in ("chat/completions", "completions"):
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong_type("stop", "a string or an array of strings", value)
    if len(stops) > MAX_STOPS:
        raise InvalidError(
            f"Invalid 'stop': array too long. Expected an array with maximum length {MAX_STOPS}, but got an"
            f" array with length {len(stops)} instead.",
            param="stop",
            code="array_above_max_length",
        )
    return tuple(filter(None, stops))


def _logprobs(operation: str, body: Mapping[str, Any], top: int | None) -> int | None:
    wanted = body.get("logprobs")
    if operation == "completions":
        return _integer(body, "logprobs", 0, 5)
    if operation == "responses":
        include = body.get("include")
        listed = isinstance(include, list) and "message.output_text.logprobs" in include
        return top or 0 if listed else None
    if wanted is not None and not isinstance(wanted, bool):
        raise wrong_type("logprobs", "a boolean", wanted)
    if top is not None and wanted is not True and operation == "chat/completions":
        raise InvalidError(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", param="top_logprobs"
        )
    return top or 0 if wanted is True else None


def _service_tier(body: Mapping[str, Any]) -> str:
    """The tier that serves the call: the one asked for, as if it always had room."""
    asked = one_of(body, "service_tier", _SERVICE_TIERS)
    return asked if asked in ("flex", "priority") else "default"


def check_text(body: Mapping[str, Any]) -> None:
    """`text.verbosity` of responses, and chat's `verbosity`; raises InvalidError."""
    text = body.get("text")
    if isinstance(text, Mapping):
        one_of(text, "verbosity", _VERBOSITIES, "text.verbosity")
    one_of(body, "verbosity", _VERBOSITIES)
