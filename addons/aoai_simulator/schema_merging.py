"""Two JSON Schemas as one that both allow, as far as one schema can express it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from aoai_simulator.schema_matching import same


def merged(one: Any, other: Any) -> dict[str, Any]:
    """A schema for the values that satisfy both; a conflict that has no one name is left to `allOf`."""
    if other is True or other is None:
        return dict(one) if isinstance(one, Mapping) else {}
    if one is True or one is None:
        return dict(other) if isinstance(other, Mapping) else {}
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return {"not": {}}
    made = dict(one)
    apart = []
    for name, value in other.items():
        if name in made and name in _APART and made[name] != value:
            apart.append({name: value})
        else:
            made[name] = _together(name, made[name], value) if name in made else value
    if apart:
        made["allOf"] = [*made.get("allOf", ()), *apart]
    _close(made, one, other)
    return made


def _together(name: str, one: Any, other: Any) -> Any:
    if one == other:
        return one
    rule = _RULES.get(name)
    return other if rule is None else rule(one, other)


def _close(made: dict[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Properties that one side has and the other's `additionalProperties` forbids cannot be there."""
    properties = made.get("properties")
    if not isinstance(properties, dict):
        return
    kept = dict(properties)
    for side in (one, other):
        if side.get("additionalProperties") is False and not side.get("patternProperties"):
            own = side.get("properties", {})
            kept = {name: part for name, part in kept.items() if name in own}
    if kept.keys() != properties.keys():
        made["properties"] = kept


def _union(one: Any, other: Any) -> Any:
    return [*one, *(item for item in other if item not in one)]


def _types(one: Any, other: Any) -> Any:
    first = one if isinstance(one, list) else [one]
    second = other if isinstance(other, list) else [other]
    both = [kind for kind in first if kind in second or (kind == "integer" and "number" in second)]
    both += [kind for kind in second if kind not in both and kind == "integer" and "number" in first]
    return both[0] if len(both) == 1 else both or ["none"]


def _common(one: Any, other: Any) -> Any:
    return [item for item in one if any(same(item, another) for another in other)]


def _step(one: Any, other: Any) -> Any:
    """The least common multiple of two whole steps; of others the larger, which often is one."""
    return math.lcm(one, other) if isinstance(one, int) and isinstance(other, int) else max(one, other)


def _properties(one: Any, other: Any) -> Any:
    return {
        **one,
        **{name: merged(one[name], part) if name in one else part for name, part in other.items()},
    }


def _schemas(one: Any, other: Any) -> Any:
    if isinstance(one, bool) or isinstance(other, bool):
        return False if one is False or other is False else (other if one is True else one)
    return merged(one, other)


def _both(one: Any, other: Any) -> Any:
    return {"anyOf": [one, other]}


_APART = frozenset(("$ref", "anyOf", "oneOf", "if"))
"""Members of which a schema can have only one; the second becomes a schema of its own."""

_RULES: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "enum": _common,
    "multipleOf": _step,
    "required": _union,
    "allOf": lambda one, other: [*one, *other],
    "properties": _properties,
    "additionalProperties": _schemas,
    "items": _schemas,
    "propertyNames": _schemas,
    "$defs": lambda one, other: {**one, **other},
    "not": _both,
    "uniqueItems": lambda one, other: one or other,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
