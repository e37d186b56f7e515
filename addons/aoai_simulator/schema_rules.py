"""Why AOAI would refuse a JSON Schema, in its words; only what it certainly refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aoai_simulator.pattern_filler import MAX_PATTERN, is_pattern
from aoai_simulator.schema_matching import resolve

MAX_DEPTH = 80
MAX_SCHEMAS = 5_000

_TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")

Path = tuple[str, ...]


def complaint(schema: object, *, strict: bool) -> str | None:
    """Return the fault of the schema of an output or of a function's parameters; None if there is none.

    `strict`: every object must forbid additional properties and require all of its own
    (https://platform.openai.com/docs/guides/structured-outputs, "Supported schemas").
    """
    if not isinstance(schema, Mapping):
        return f"schema must be a JSON Schema of 'type: \"object\"', got {schema!r}."
    if _deep(schema):
        return f"the schema is nested more than {MAX_DEPTH} levels deep."
    if strict and schema.get("type") != "object" and "$ref" not in schema:
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    for count, (path, part) in enumerate(all_schemas(schema)):
        if count >= MAX_SCHEMAS:
            return f"the schema has more than {MAX_SCHEMAS} parts."
        problem = _ill_formed(part, schema)
        if problem is None and strict and isinstance(part, Mapping):
            problem = _not_strict(part)
        if problem is not None:
            return f"In context={path!r}, {problem}"
    return None


def _deep(value: object) -> bool:
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > MAX_DEPTH:
            return True
        if isinstance(item, Mapping):
            pending.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            pending.extend((inner, depth + 1) for inner in item)
    return False


def all_schemas(root: object) -> Iterator[tuple[Path, object]]:
    """Every schema within a schema, with the path to it."""
    pending: list[tuple[Path, object]] = [((), root)]
    while pending:
        path, schema = pending.pop(0)
        yield path, schema
        if not isinstance(schema, Mapping):
            continue
        for name in _MAPS:
            if isinstance(inner := schema.get(name), Mapping):
                pending.extend(((*path, name, key), part) for key, part in inner.items())
        for name in (*_LISTS, "items"):
            if isinstance(parts := schema.get(name), list):
                pending.extend(((*path, name, str(index)), part) for index, part in enumerate(parts))
        pending.extend(
            ((*path, name), schema[name])
            for name in _SINGLE
            if name in schema and not isinstance(schema[name], list)
        )


def _ill_formed(schema: object, root: object) -> str | None:
    """A breach of JSON Schema itself."""
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, Mapping):
        return f"{schema!r} is not of type 'object', 'boolean'."
    types = schema.get("type")
    for kind in types if isinstance(types, list) else [types] if "type" in schema else []:
        if not isinstance(kind, str) or kind not in _TYPES:
            return f"{kind!r} is not valid under any of the given schemas."
    for name, wanted, noun in (
        *((name, Mapping, "object") for name in (*_MAPS, "dependentRequired")),
        *((name, list, "array") for name in (*_LISTS, "enum", "required")),
    ):
        if name in schema and not isinstance(schema[name], wanted):
            return f"{schema[name]!r} is not of type '{noun}'."
        if name in (*_LISTS, "enum") and schema.get(name) == []:
            return "[] should be non-empty."
    for name in schema.get("required", ()):
        if not isinstance(name, str):
            return f"{name!r} is not of type 'string'."
    return _ill_numbered(schema) or _ill_named(schema, root)


def _ill_numbered(schema: Mapping[str, Any]) -> str | None:
    for name in _COUNTS:
        value = schema.get(name, 0)
        if type(value) is float and value.is_integer():
            continue
        if type(value) is not int:
            return f"{value!r} is not of type 'integer'."
        if value < 0:
            return f"{value!r} is less than the minimum of 0."
    for name in _NUMBERS:
        value = schema.get(name, 1)
        if type(value) not in (int, float):
            return f"{value!r} is not of type 'number'."
        if name == "multipleOf" and value <= 0:
            return f"{value!r} is less than or equal to the minimum of 0."
    return None


def _ill_named(schema: Mapping[str, Any], root: object) -> str | None:
    for needed in schema.get("dependentRequired", {}).values():
        if not isinstance(needed, list) or not all(isinstance(name, str) for name in needed):
            return f"{needed!r} is not of type 'array'."
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str):
        return f"{pattern!r} is not of type 'string'."
    if len(pattern) <= MAX_PATTERN and "\\p" not in pattern and not is_pattern(pattern):
        return f"{pattern!r} is not a 'regex'."
    if "$ref" in schema:
        try:
            resolve(schema["$ref"], root)
        except LookupError:
            return f"reference to component {schema['$ref']!r} was not found in schema."
    return None


def _not_strict(schema: Mapping[str, Any]) -> str | None:
    types = schema.get("type")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        return None
    if schema.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false."
    required = schema.get("required", [])
    for name in schema.get("properties", {}):
        if name not in required:
            return (
                "'required' is required to be supplied and to be an array including every key in properties."
                f" Missing '{name}'."
            )
    for name in required:
        if name not in schema.get("properties", {}):
            return f"'required' is required to name properties only. Extra required key '{name}' supplied."
    return None
