"""Whether a value satisfies a JSON Schema, as far as the simulator needs to know it.

`pattern`, `format` and `patternProperties` are not looked at: a pattern comes from a peer, and to match it
could take for ever. Depth and the number of comparisons are bounded; beyond the bound all counts as right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 60
MAX_STEPS = 20_000

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


@dataclass(slots=True)
class Document:
    """The schema that references lead into, and how many comparisons are left."""

    root: Any
    left: int = MAX_STEPS


def resolve(reference: object, root: object) -> Any:
    """The schema that a reference within the document names; raises LookupError if there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise LookupError(reference)
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise LookupError(reference)
    return found


def same(one: object, other: object) -> bool:
    """Equality as JSON has it: 1 is 1.0, but true is not 1."""
    return key(one) == key(other)


def key(value: object) -> str:
    """A text that is the same for values that are equal in JSON."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def is_type(value: object, name: object) -> bool:
    """Whether a value has a type of JSON Schema; unknown types have no values."""
    if name == "integer":
        return type(value) is int or (type(value) is float and value.is_integer())
    if name == "number":
        return type(value) in (int, float)
    return isinstance(value, _TYPES.get(str(name), ()))


def matches(value: Any, schema: Any, document: Document, depth: int = 0) -> bool:
    """Whether the value satisfies the schema."""
    if isinstance(schema, bool):
        return schema
    document.left -= 1
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH or document.left < 0:
        return True
    return (
        _matches_itself(value, schema)
        and _matches_combinations(value, schema, document, depth + 1)
        and (not isinstance(value, dict) or _matches_object(value, schema, document, depth + 1))
        and (not isinstance(value, list) or _matches_array(value, schema, document, depth + 1))
    )


def _matches_itself(value: Any, schema: Mapping[str, Any]) -> bool:
    """Types, enumerations, numbers and lengths."""
    types = schema.get("type")
    if types is not None and not any(
        is_type(value, name) for name in (types if isinstance(types, list) else [types])
    ):
        return False
    enum = schema.get("enum")
    if isinstance(enum, list) and not any(same(value, item) for item in enum):
        return False
    if "const" in schema and not same(value, schema["const"]):
        return False
    if is_type(value, "number"):
        return _matches_number(value, schema)
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf))
    return True


def _matches_number(value: float, schema: Mapping[str, Any]) -> bool:
    step = schema.get("multipleOf")
    if step and not is_multiple(value, step):
        return False
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
        and not ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
    )


def is_multiple(value: float, step: float) -> bool:
    """Whether a number is a multiple, in the floating point that validators calculate in."""
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return math.isfinite(quotient) and quotient.is_integer()


def _matches_combinations(value: Any, schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    if "$ref" in schema and not _matches_reference(value, schema["$ref"], document, depth):
        return False
    if not all(matches(value, part, document, depth) for part in _schemas(schema, "allOf")):
        return False
    any_of, one_of = _schemas(schema, "anyOf"), _schemas(schema, "oneOf")
    if any_of and not any(matches(value, part, document, depth) for part in any_of):
        return False
    if one_of and sum(matches(value, part, document, depth) for part in one_of) != 1:
        return False
    if "not" in schema and matches(value, schema["not"], document, depth):
        return False
    if "if" in schema:
        branch = "then" if matches(value, schema["if"], document, depth) else "else"
        return matches(value, schema.get(branch, True), document, depth)
    return True


def _matches_reference(value: Any, reference: object, document: Document, depth: int) -> bool:
    try:
        return matches(value, resolve(reference, document.root), document, depth)
    except LookupError:
        return True


def _matches_object(value: dict[str, Any], schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    properties = schema.get("properties", {})
    if not all(name in value for name in schema.get("required", ())):
        return False
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        return False
    others = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
    names = schema.get("propertyNames", True)
    return all(
        matches(item, properties.get(name, others), document, depth) and matches(name, names, document, depth)
        for name, item in value.items()
    ) and all(
        needed in value
        for name, more in schema.get("dependentRequired", {}).items()
        if name in value
        for needed in more
    )


def _matches_array(value: list[Any], schema: Mapping[str, Any], document: Document, depth: int) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        return False
    if schema.get("uniqueItems") is True and len({key(item) for item in value}) < len(value):
        return False
    first = prefix(schema)
    if not all(matches(item, part, document, depth) for item, part in zip(value, first, strict=False)):
        return False
    if not all(matches(item, rest(schema), document, depth) for item in value[len(first) :]):
        return False
    if "contains" not in schema:
        return True
    found = sum(matches(item, schema["contains"], document, depth) for item in value)
    return bool(schema.get("minContains", 1) <= found <= schema.get("maxContains", math.inf))


def prefix(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas of an array's first items; older drafts have a list at `items`."""
    first = schema.get("prefixItems")
    if first is None:
        first = schema.get("items")
    return first if isinstance(first, list) else []


def rest(schema: Mapping[str, Any]) -> Any:
    """The schema of an array's other items."""
    items = schema.get("items", True)
    return schema.get("additionalItems", True) if isinstance(items, list) else items


def _schemas(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = schema.get(name)
    return found if isinstance(found, list) else []
