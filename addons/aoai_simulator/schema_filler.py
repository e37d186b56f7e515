"""Values that satisfy a JSON Schema, as a model would put them into structured outputs and tool calls.

Pure and deterministic. `variant` 0, 1, 2 … gives other values of the same schema. Optional properties
are filled, but where a reference leads back into itself only what is required is. Time is bounded,
for any schema: one that asks for more than `MAX_NODES` values gets `UnfillableError`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import Any

from aoai_simulator.pattern_filler import text_for
from aoai_simulator.schema_matching import Document, is_type, key, matches, prefix, resolve, rest
from aoai_simulator.schema_merging import merged

MAX_NODES = 2_000
MAX_DEPTH = 40
MAX_ITEMS = 500
MAX_TEXT = 5_000

_CANDIDATES = 40
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_HINTS: Mapping[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_FORMATS: Mapping[str, str] = {
    "date-time": "2026-01-{:02d}T09:30:00Z",
    "date": "2026-01-{:02d}",
    "time": "09:{:02d}:00Z",
    "duration": "P{}D",
    "uuid": "3f2b8c1e-5d47-4a90-9c3e-0000000000{:02d}",
    "email": "user{}@example.com",
    "idn-email": "user{}@example.com",
    "hostname": "host{}.example.com",
    "idn-hostname": "host{}.example.com",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{}",
    "uri": "https://example.com/{}",
    "url": "https://example.com/{}",
    "iri": "https://example.com/{}",
    "uri-reference": "https://example.com/{}",
    "iri-reference": "https://example.com/{}",
    "uri-template": "https://example.com/{}",
    "json-pointer": "/item/{}",
    "relative-json-pointer": "{}",
    "regex": "^[a-z]{{{}}}$",
}


class UnfillableError(ValueError):
    """No value was found; the schema asks for too much, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands: the property's name, the variant, and the references that led there."""

    name: str
    variant: int
    depth: int = 0
    references: frozenset[str] = frozenset()
    sparse: bool = False
    """Inside a recursion: only what is required."""

    def inner(self, name: str, variant: int) -> _Place:
        return replace(self, name=name, variant=variant, depth=self.depth + 1)


def fill(schema: Any, *, variant: int = 0) -> Any:
    """A value that satisfies the schema, which `schema_rules.complaint` lets pass. Raises UnfillableError."""
    return _Filler(schema).value(schema, _Place("value", variant))


class _Filler:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._document = Document(root)
        self._nodes = MAX_NODES

    def value(self, schema: Any, place: _Place) -> Any:
        """The first candidate that satisfies the whole schema."""
        self._nodes -= 1
        if self._nodes < 0 or place.depth > MAX_DEPTH:
            raise UnfillableError("the schema asks for too many values")
        if schema is False:
            raise UnfillableError("a schema that is false has no value")
        if not isinstance(schema, Mapping) or not schema:
            return _text_of(place)
        for candidate in islice(self._candidates(schema, place), _CANDIDATES):
            if matches(candidate, schema, self._document):
                return candidate
        raise UnfillableError(f"no value was found for '{place.name}'")

    # Which simple schemas a schema stands for

    def _candidates(self, schema: Mapping[str, Any], place: _Place) -> Iterator[Any]:
        for simple, where in self._expanded(schema, place):
            for shape in self._conditions(simple):
                for kind in _kinds(shape, where):
                    try:
                        yield self._of_kind(kind, shape, where)
                    except UnfillableError:
                        if self._nodes < 0:
                            raise

    def _expanded(self, schema: Mapping[str, Any], place: _Place) -> Iterator[tuple[dict[str, Any], _Place]]:
        """Schemas without references, allOf, anyOf and oneOf; any value of one of them may do."""
        self._nodes -= 1
        if self._nodes < 0 or place.depth > MAX_DEPTH:
            return
        simple = dict(schema)
        if "$ref" in simple:
            reference = str(simple.pop("$ref"))
            sparse = place.sparse or reference in place.references
            where = replace(
                place, references=place.references | {reference}, sparse=sparse, depth=place.depth + 1
            )
            target = resolve(reference, self._root)
            if target is not False:
                yield from self._expanded(merged(target, simple), where)
            return
        deeper = replace(place, depth=place.depth + 1)
        for name in ("anyOf", "oneOf"):
            branches = simple.pop(name, None)
            if isinstance(branches, list) and branches:
                for branch in _ordered(branches, place):
                    if branch is not False:
                        yield from self._expanded(merged(simple, branch), deeper)
                return
        if parts := simple.pop("allOf", None):
            # One after the other, so that each part's own combinations are expanded before the next.
            if len(parts) > 1:
                simple["allOf"] = parts[1:]
            yield from self._expanded(merged(simple, parts[0]), deeper)
            return
        yield simple, place

    def _conditions(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield schema
        if "if" in schema:
            bare = {name: part for name, part in schema.items() if name not in ("if", "then", "else")}
            yield merged(merged(bare, schema["if"]), schema.get("then", True))
            yield merged(bare, schema.get("else", True))

    # Values by type

    def _of_kind(self, kind: str, schema: Mapping[str, Any], place: _Place) -> Any:
        if kind == "const":
            return schema["const"]
        if kind.startswith("enum"):
            return schema["enum"][int(kind[4:])]
        if kind == "object":
            return self._object(schema, place)
        if kind == "array":
            return self._array(schema, place)
        if kind == "string":
            return _string(schema, place)
        if kind in ("integer", "number"):
            return _number(schema, place, whole=kind == "integer")
        return place.variant % 2 == 0 if kind == "boolean" else None

    def _object(self, schema: Mapping[str, Any], place: _Place) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", ()))
        most = schema.get("maxProperties", math.inf)
        made: dict[str, Any] = {}
        for name in _names(properties, required, place):
            if name not in required and len(made) + len(set(required) - set(made)) >= most:
                continue
            part = properties.get(name, _others(schema))
            try:
                made[name] = self.value(part, place.inner(name, place.variant))
            except UnfillableError:
                if name in required or self._nodes < 0:
                    raise
        for more in (more for name, more in schema.get("dependentRequired", {}).items() if name in made):
            for name in more:
                if name not in made:
                    made[name] = self.value(
                        properties.get(name, _others(schema)), place.inner(name, place.variant)
                    )
        self._add_others(made, schema, place)
        return made

    def _add_others(self, made: dict[str, Any], schema: Mapping[str, Any], place: _Place) -> None:
        """Properties that have no name in the schema: as many as must be, and one that may."""
        others = _others(schema)
        least = min(schema.get("minProperties", 0), MAX_ITEMS)
        if isinstance(others, Mapping) and others and not made and not place.sparse:
            least = max(least, min(1, schema.get("maxProperties", 1)))
        names = schema.get("propertyNames", {})
        for number in range(2 * least):
            if len(made) >= least or others is False:
                return
            name = self.value(merged({"type": "string"}, names), place.inner("key", number))
            if name not in made:
                made[name] = self.value(others, place.inner(name, place.variant + number))

    def _array(self, schema: Mapping[str, Any], place: _Place) -> list[Any]:
        first, others = prefix(schema), rest(schema)
        most = min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS)
        least = min(schema.get("minItems", 0), most)
        contains = schema.get("contains")
        made = [
            self.value(part, place.inner(place.name, place.variant + number))
            for number, part in enumerate(first[: int(most)])
        ]
        if contains is not None:
            for number in range(min(schema.get("minContains", 1), MAX_ITEMS)):
                part = merged(others, contains) if isinstance(others, Mapping) else contains
                made.append(self.value(part, place.inner(place.name, place.variant + number)))
        if not place.sparse and others is not False and isinstance(others, Mapping):
            least = max(least, min(1 if first else 2, most))
        unique = schema.get("uniqueItems") is True
        self._add_items(made, others, place, wanted=int(least), unique=unique, must=schema.get("minItems", 0))
        return made

    def _add_items(
        self, made: list[Any], others: Any, place: _Place, *, wanted: int, unique: bool, must: float
    ) -> None:
        seen = {key(item) for item in made}
        for number in range(len(made), 3 * wanted + 8):
            if len(made) >= wanted or others is False:
                return
            try:
                item = self.value(others, place.inner(place.name, place.variant + number))
            except UnfillableError:
                if len(made) < must or self._nodes < 0:
                    raise
                return
            if not unique or key(item) not in seen:
                made.append(item)
                seen.add(key(item))


def _names(properties: Mapping[str, Any], required: list[str], place: _Place) -> list[str]:
    """Which properties are filled, in the schema's order."""
    named = [name for name in properties if name in required or not place.sparse]
    return named + [name for name in required if name not in properties]


def _others(schema: Mapping[str, Any]) -> Any:
    """The schema of properties without a name in it."""
    patterns = schema.get("patternProperties")
    return {} if patterns else schema.get("additionalProperties", {})


def _ordered(branches: list[Any], place: _Place) -> list[Any]:
    """Return branches in the order of trying: first the variant's, or those that lead to an end."""
    solid = [branch for branch in branches if not _is_null(branch)]
    if place.sparse:
        return sorted(branches, key=_weight)
    start = place.variant % len(solid) if solid else 0
    return [*solid[start:], *solid[:start], *(branch for branch in branches if _is_null(branch))]


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _weight(schema: Any) -> int:
    if not isinstance(schema, Mapping):
        return 1
    if "$ref" in schema:
        return 3
    if schema.get("type") in ("object", "array") or "properties" in schema:
        return 2
    return 1 if not _is_null(schema) else 0


def _kinds(schema: Mapping[str, Any], place: _Place) -> Iterator[str]:
    """Return the candidates for a schema without combinations, the best first."""
    if "const" in schema:
        yield "const"
        return
    enum = schema.get("enum")
    if isinstance(enum, list) and enum:
        start = place.variant % len(enum)
        order = [*range(start, len(enum)), *range(start)]
        yield from (f"enum{index}" for index in sorted(order, key=lambda index: enum[index] is None))
        return
    types = schema.get("type")
    if isinstance(types, str):
        yield types
    elif isinstance(types, list) and types:
        yield from sorted(types, key=lambda kind: (kind == "null") != place.sparse)
    else:
        hinted = [kind for kind, names in _HINTS.items() if any(name in schema for name in names)]
        yield from hinted
        yield from (kind for kind in ("string", *_TYPES) if kind not in hinted)


def _text_of(place: _Place) -> str:
    return place.name if not place.variant else f"{place.name} {place.variant + 1}"


def _string(schema: Mapping[str, Any], place: _Place) -> str:
    least = min(int(schema.get("minLength", 0)), MAX_TEXT)
    most = schema.get("maxLength")
    most = None if most is None else int(most)
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        text = text_for(pattern, least, most)
        if text is not None:
            return text
    form = _FORMATS.get(str(schema.get("format")))
    if form is not None:
        return form.format(1 + place.variant % 28)
    text = _text_of(place)
    while len(text) < least:
        text = f"{text} {place.name or 'text'}"
    if most is None or len(text) <= most:
        return text
    if place.variant and most:
        # What tells one variant from the other stands at the end.
        return text[-most:]
    return text[:most]


def _number(schema: Mapping[str, Any], place: _Place, *, whole: bool) -> int | float:
    """A number within the bounds; with a step, one that floating point takes for a multiple."""
    low, high = _bounds(schema)
    step = schema.get("multipleOf")
    grid = Fraction(str(step)) if step else None
    if whole:
        grid = Fraction(grid.numerator) if grid is not None else Fraction(1)
    if grid is None:
        return _between(schema, low, high, place.variant)
    for number in _multiples(grid, low, high, place.variant):
        value = int(number) if whole or number.denominator == 1 else float(number)
        if matches(value, schema, Document(True)):
            return value
    raise UnfillableError("no number is within the bounds")


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    return low, high


def _multiples(grid: Fraction, low: float, high: float, variant: int) -> Iterator[Fraction]:
    """Some multiples of `grid` from `low` to `high`, near 1 where that is possible."""
    first = -(-Fraction(low) // grid) if math.isfinite(low) else None
    last = Fraction(high) // grid if math.isfinite(high) else None
    start = max(1, first) if first is not None else 1
    if last is not None and start + variant > last:
        span = last - first + 1 if first is not None else variant + 1
        if span <= 0:
            return
        start = last - variant % span
        yield from (grid * count for count in range(start, start - 20, -1))
        yield from (grid * count for count in range(last, last - 20, -1))
    else:
        yield from (grid * (start + variant + count) for count in range(20))
    yield Fraction(0)


def _between(schema: Mapping[str, Any], low: float, high: float, variant: int) -> float:
    wanted: float = 1.5 + variant
    if low <= wanted <= high and matches(wanted, schema, Document(True)):
        return wanted
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * (1 + variant % 7) / 8 if low < high else low
    return low + 1 + variant if math.isfinite(low) else high - 1 - variant


def is_object_schema(value: object) -> bool:
    """Whether a value looks like the JSON Schema of an object."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("properties"), dict)
        and value["properties"] != {}
        and (is_type(value.get("type"), "null") or value.get("type") == "object")
    )
