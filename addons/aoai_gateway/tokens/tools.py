"""Tool definitions -> tokens.

The formula of the OpenAI cookbook ("Counting tokens for chat completions with tool calls"), checked by
its authors for gpt-3.5, gpt-4 and gpt-4o with flat parameters:

    per function  7 (10 for gpt-3.5 and gpt-4) + tokens of "name:description"
                  + 3 if it has properties
    per property  3 + tokens of "name:type:description"
                  - 3 if it has an enum, + 3 + tokens of the value for each of its values
    once          12

Descriptions lose a final full stop. Nested schemas and the schema of a structured output follow the
same rule, by assumption; the cost of a built-in tool is not published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aoai_gateway.tokens.prompt import Prompt

_FUNCTIONS_END = 12
_PROPERTIES_START = 3
_PROPERTY = 3
_ENUM_START = -3
_ENUM_VALUE = 3

_CHECKED_SCHEMA = frozenset(("type", "properties", "required"))
_CHECKED_PROPERTY = frozenset(("type", "description", "enum"))
# Members of a schema node that hold values or names, not schemas.
_NO_SCHEMAS = frozenset(("properties", "enum", "required", "type", "const", "default", "examples"))


def add_tools(prompt: Prompt, tools: object, functions: object = None) -> None:
    """Tools of chat completions or Responses, and chat's older `functions`."""
    definitions = list(_mappings(functions))
    for tool in _mappings(tools):
        definition = tool.get("function", tool)  # Responses has the members on the tool itself
        if tool.get("type", "function") == "function" and isinstance(definition, Mapping):
            definitions.append(definition)
        else:
            prompt.assume(prompt.family.per_function)
            prompt.anything(tool)
    for definition in definitions:
        prompt.tokens += prompt.family.per_function
        _described(prompt, definition.get("name"), definition.get("description"))
        _schema(prompt, definition.get("parameters"))
    if definitions:
        prompt.tokens += _FUNCTIONS_END


def add_output_schema(prompt: Prompt, schema: object) -> None:
    """`{name, description, schema}` of a structured output."""
    if isinstance(schema, Mapping):
        prompt.assume(prompt.family.per_function)
        _described(prompt, schema.get("name"), schema.get("description"))
        _schema(prompt, schema.get("schema"))


def _mappings(value: object) -> Iterable[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()


def _described(prompt: Prompt, name: object, description: object, type_: str | None = None) -> None:
    if not isinstance(description, str):
        description = ""
        prompt.exact = False
    words = [name if isinstance(name, str) else "", description.removesuffix(".")]
    if type_ is not None:
        words.insert(1, type_)
    prompt.text(":".join(words))


def _schema(prompt: Prompt, schema: object) -> None:
    """Iterative, because the client decides how deep a schema nests."""
    if isinstance(schema, Mapping) and not schema.keys() <= _CHECKED_SCHEMA:
        prompt.exact = False
        prompt.text(schema.get("description"))
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, Mapping):
            _enum(prompt, node.get("enum"))
            properties = node.get("properties")
            if isinstance(properties, Mapping) and properties:
                prompt.tokens += _PROPERTIES_START
                for name, value in properties.items():
                    _property(prompt, name, value)
                    pending.append(value)
            pending.extend(inner for key, inner in node.items() if key not in _NO_SCHEMAS)


def _property(prompt: Prompt, name: object, value: object) -> None:
    prompt.tokens += _PROPERTY
    if not isinstance(value, Mapping):
        value = {}
    if not value.keys() <= _CHECKED_PROPERTY:
        prompt.exact = False
    type_ = value.get("type")
    if isinstance(type_, list):  # ["string", "null"]
        type_ = "|".join(item for item in type_ if isinstance(item, str))
        prompt.exact = False
    _described(prompt, name, value.get("description"), type_ if isinstance(type_, str) else "")


def _enum(prompt: Prompt, values: object) -> None:
    if isinstance(values, list) and values:
        prompt.tokens += _ENUM_START
        for value in values:
            prompt.tokens += _ENUM_VALUE
            if isinstance(value, str):
                prompt.text(value)
            else:
                prompt.assume(1)
