"""Structured outputs of Claude: which JSON a message has to be, and the schemas that Anthropic takes.

A format stands in ``output_config``, in calls of the beta in ``output_format``. Schemas of outputs and of
strict tools know fewer words than JSON Schema has
(https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_simulator.output_formats import JsonForm
from aoai_simulator.replies import InvalidError
from aoai_simulator.schema_rules import all_schemas, complaint

_NUMBER_WORDS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_NOT_SUPPORTED: Mapping[str, tuple[str, ...]] = {
    "integer": _NUMBER_WORDS,
    "number": _NUMBER_WORDS,
    "string": ("maxLength", "minLength"),
    "array": ("maxItems",),
}
_MOST_MIN_ITEMS = 1


def read_message_form(body: Mapping[str, Any]) -> JsonForm | None:
    """Return the form that a call demands of its answer, None for text. Raises InvalidError."""
    where, asked = _asked(body)
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise InvalidError(f"{where}: Input should be a valid dictionary")
    if asked.get("type") != "json_schema":
        raise InvalidError(f"{where}.type: Input should be 'json_schema'")
    schema = asked.get("schema")
    if not isinstance(schema, Mapping):
        raise InvalidError(f"{where}.schema: Field required")
    check_schema(schema, f"{where}.schema")
    return JsonForm(schema, where, where)


def check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Raise InvalidError, which begins with `where`, for a schema that is refused."""
    problem = complaint(schema, strict=False)
    if problem is None:
        problem = next(filter(None, (_refused(part) for _, part in all_schemas(schema))), None)
    if problem is not None:
        raise InvalidError(f"{where}: {problem}")


def _asked(body: Mapping[str, Any]) -> tuple[str, Any]:
    config = body.get("output_config")
    if config is not None and not isinstance(config, Mapping):
        raise InvalidError("output_config: Input should be a valid dictionary")
    if config and config.get("format") is not None:
        return "output_config.format", config["format"]
    return "output_format", body.get("output_format")


def _refused(schema: object) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    types = schema.get("type", ())
    for kind in types if isinstance(types, list | tuple) else [types]:
        if kind == "object" and (problem := _open(schema)) is not None:
            return problem
        words = [word for word in _NOT_SUPPORTED.get(kind, ()) if word in schema]
        if kind == "array" and schema.get("minItems", 0) > _MOST_MIN_ITEMS:
            words.append("minItems")
        if len(words) == 1:
            return f"For '{kind}' type, property '{words[0]}' is not supported"
        if words:
            return f"For '{kind}' type, properties {', '.join(words)} are not supported"
    return None


def _open(schema: Mapping[str, Any]) -> str | None:
    more = schema.get("additionalProperties")
    if more is False:
        return None
    if more is None:
        return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    shown = "true" if more is True else "object"
    return (
        f"For 'object' type, 'additionalProperties: {shown}' is not supported."
        " Please set 'additionalProperties' to false"
    )
