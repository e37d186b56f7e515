"""Structured outputs and JSON mode: which JSON an answer has to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_simulator.parameters import wrong_type
from aoai_simulator.replies import InvalidError
from aoai_simulator.schema_filler import is_object_schema
from aoai_simulator.schema_matching import Document, matches
from aoai_simulator.schema_rules import complaint

_KINDS = ("text", "json_object", "json_schema")
_SEARCHED_CHARS = 100_000
_SEARCHED_BRACES = 50


@dataclass(frozen=True, slots=True)
class JsonForm:
    """The answer is JSON. `schema` is None in JSON mode when the prompt shows no schema either.

    `name` and `param` are for the message when nothing satisfies the schema.
    """

    schema: Mapping[str, Any] | None
    name: str
    param: str

    def accepts(self, value: object) -> bool:
        """Whether a value has the form."""
        return isinstance(value, dict) and (
            self.schema is None or matches(value, self.schema, Document(self.schema))
        )

    def unfillable(self) -> InvalidError:
        """400 for a schema without a value."""
        message = f"Invalid schema for response_format '{self.name}': no value satisfies it."
        return InvalidError(message, param=self.param, code="invalid_json_schema")


def read_form(operation: str, body: Mapping[str, Any], prompt: str) -> JsonForm | None:
    """The form that a request demands of the answer, None for text; raises InvalidError."""
    param = {"chat/completions": "response_format", "responses": "text.format"}.get(operation)
    if param is None:
        return None
    asked = body.get("response_format") if operation == "chat/completions" else _format(body)
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise wrong_type(param, "an object", asked)
    kind = asked.get("type")
    if kind not in _KINDS:
        message = f"Invalid value: {kind!r}. Supported values are: 'json_object', 'json_schema', and 'text'."
        raise InvalidError(message, param=f"{param}.type", code="invalid_value")
    if kind == "json_schema":
        return _schema_form(operation, asked, param)
    if kind == "text":
        return None
    if "json" not in prompt.lower():
        raise _no_json_word(operation)
    return JsonForm(_shown_schema(prompt), "json_object", param)


def _format(body: Mapping[str, Any]) -> Any:
    text = body.get("text")
    if text is not None and not isinstance(text, Mapping):
        raise wrong_type("text", "an object", text)
    return text.get("format") if text else None


def _schema_form(operation: str, asked: Mapping[str, Any], param: str) -> JsonForm:
    where = f"{param}.json_schema" if operation == "chat/completions" else param
    spec = asked.get("json_schema") if operation == "chat/completions" else asked
    for name in ("name", "schema"):
        if not isinstance(spec, Mapping) or spec.get(name) is None:
            missing = f"{where}.{name}" if isinstance(spec, Mapping) else where
            message = f"Missing required parameter: '{missing}'."
            raise InvalidError(message, param=missing, code="missing_required_parameter")
    assert isinstance(spec, Mapping)
    problem = complaint(spec["schema"], strict=spec.get("strict") is True)
    schema_param = param if operation == "chat/completions" else f"{param}.schema"
    if problem is not None:
        message = f"Invalid schema for response_format '{spec['name']}': {problem}"
        raise InvalidError(message, param=schema_param, code="invalid_json_schema")
    return JsonForm(spec["schema"], str(spec["name"]), schema_param)


def _no_json_word(operation: str) -> InvalidError:
    if operation == "responses":
        return InvalidError(
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type"
            " 'json_object'.",
            param="input",
        )
    return InvalidError(
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type"
        " 'json_object'.",
        param="messages",
    )


def _shown_schema(prompt: str) -> Mapping[str, Any] | None:
    """The last JSON Schema of an object that stands in the prompt: clients with JSON mode put it there."""
    text, found, start = prompt[:_SEARCHED_CHARS], None, 0
    decoder = json.JSONDecoder()
    for _ in range(_SEARCHED_BRACES):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        start = end
        if is_object_schema(value) and complaint(value, strict=False) is None:
            found = value
    return found
