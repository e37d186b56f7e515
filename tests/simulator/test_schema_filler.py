"""Values made from schemas, judged by the jsonschema package."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aoai_simulator.schema_filler import UnfillableError, fill
from aoai_simulator.schema_rules import complaint

TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name", "children"],
    "additionalProperties": False,
}
LINKED = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"days": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
    {"type": ["integer", "null"]},
    {"type": ["null", "string"], "maxLength": 3},
    {"enum": [None, "a"]},
    {"const": {"deep": [1, 2]}},
    {"type": "string", "minLength": 30, "maxLength": 31},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
    {"type": "string", "pattern": "^(red|green)+_[^a-z]\\w*$", "minLength": 12},
    {"type": "string", "pattern": "^(\\d)\\1$"},
    {"type": "integer", "minimum": 5, "maximum": 7, "multipleOf": 3},
    {"type": "integer", "exclusiveMaximum": -3},
    {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 0.5},
    {"type": "number", "minimum": 0.31, "maximum": 0.4, "multipleOf": 0.01},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 9, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 50}},
    {"type": "array", "maxItems": 0, "items": {"type": "integer"}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    {
        "type": "object",
        "additionalProperties": True,
        "minProperties": 2,
        "propertyNames": {"pattern": "^[a-z]{3}$"},
        "properties": {"abc": {}},
    },
    {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["b"], "type": "object"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9, "multipleOf": 4}]},
    {
        "allOf": [
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            {"anyOf": [{"type": "array"}, {"type": "integer"}]},
        ]
    },
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "required": ["b"]}]},
    {"not": {"type": "string"}},
    {"type": "object", "required": ["free"]},
    {
        "type": "object",
        "properties": {"kind": {"enum": ["card", "cash"]}},
        "required": ["kind"],
        "if": {"properties": {"kind": {"const": "card"}}},
        "then": {"required": ["number"], "properties": {"number": {"type": "string"}}},
    },
    {"type": "object", "properties": {"a": {}}, "dependentRequired": {"a": ["b"]}},
    {
        "type": "object",
        "properties": {
            "pet": {
                "discriminator": {"propertyName": "kind"},
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            }
        },
        "required": ["pet"],
        "$defs": {
            "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            "Dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
        },
    },
    TREE,
    LINKED,
    {},
    True,
    *(
        {"type": "string", "format": name}
        for name in (
            "date-time", "date", "time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri",
            "regex",
        )
    ),
]  # fmt: skip


def judge(value: Any, schema: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:60])
def test_a_value_satisfies_its_schema(schema: Any, variant: int) -> None:
    value = fill(schema, variant=variant)
    judge(value, schema)
    assert fill(schema, variant=variant) == value


def test_an_optional_integer_is_an_integer() -> None:
    days = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    assert fill({"type": "object", "properties": {"days": days}}) == {"days": 1}


def test_a_recursion_ends_where_it_may() -> None:
    assert fill(LINKED) == {"value": 1.5, "next": {"value": 1.5, "next": None}}
    assert fill(TREE)["children"][0]["children"][1] == {"name": "name 2", "children": []}


def test_variants_differ() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}}
    assert [fill(schema, variant=number) for number in range(2)] == [
        {"city": "city", "unit": "C"},
        {"city": "city 2", "unit": "F"},
    ]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#"},
        {"oneOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"enum": [1, 2]}},
        {
            "type": "object",
            "properties": {name: {"$ref": "#"} for name in "abcdefgh"},
            "required": list("abcdefgh"),
        },
    ],
    ids=str,
)
def test_what_cannot_be_filled_is_told_soon(schema: Any) -> None:
    started = time.process_time()
    with pytest.raises(UnfillableError):
        fill(schema)
    assert time.process_time() - started < 2


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from("abcd")
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=3)},
            optional={
                "required": st.lists(names, max_size=2, unique=True),
                "additionalProperties": st.booleans() | inner,
                "minProperties": st.integers(0, 3),
            },
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={
                "minItems": st.integers(0, 3),
                "maxItems": st.integers(3, 4),
                "uniqueItems": st.booleans(),
            },
        ),
        *(
            st.fixed_dictionaries({name: st.lists(inner, min_size=1, max_size=3)})
            for name in ("anyOf", "allOf", "oneOf")
        ),
    )


LEAVES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={
            "minimum": st.integers(-5, 5),
            "maximum": st.integers(0, 9),
            "exclusiveMinimum": st.integers(-5, 5),
            "multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.25]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", ["string", "null"]])},
        optional={"minLength": st.integers(0, 9), "maxLength": st.integers(4, 20)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("string"), "pattern": st.from_regex(r"\A\^[a-c]{1,3}[+*]?\\d{1,2}\$\Z")}
    ),
    st.fixed_dictionaries({"enum": st.lists(st.integers(0, 3) | st.sampled_from("xy"), min_size=1)}),
    st.fixed_dictionaries({"const": st.booleans() | st.none() | st.integers(0, 2)}),
    st.just({}),
    st.just({"type": "boolean"}),
)  # fmt: skip


@given(st.recursive(LEAVES, _schemas, max_leaves=8), st.integers(0, 5))
def test_any_value_that_is_made_satisfies_its_schema(schema: Any, variant: int) -> None:
    assert complaint(schema, strict=False) is None
    try:
        value = fill(schema, variant=variant)
    except UnfillableError:
        assume(False)
    judge(value, schema)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "enum", "required", "minimum",
             "pattern", "not", "multipleOf", "minLength", "if", "contains", "additionalProperties",
             "prefixItems"]
        ) | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.booleans())
def test_each_schema_is_refused_filled_or_unfillable(schema: Any, strict: bool) -> None:
    if complaint(schema, strict=strict) is None:
        with contextlib.suppress(UnfillableError):
            fill(schema)


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ([], "got []"),
        ({"type": "strin"}, "'strin' is not valid"),
        ({"type": "object", "properties": {"a": {"type": "x"}}}, "In context=('properties', 'a')"),
        ({"type": "object", "properties": []}, "not of type 'object'"),
        ({"type": "object", "required": "a"}, "not of type 'array'"),
        ({"enum": []}, "non-empty"),
        ({"$ref": "#/$defs/none"}, "was not found"),
        ({"$ref": "https://example.com/"}, "was not found"),
        ({"type": "string", "pattern": "["}, "not a 'regex'"),
        ({"minLength": -1}, "minimum of 0"),
        ({"minimum": "3"}, "not of type 'number'"),
        ({"multipleOf": 0}, "minimum of 0"),
        ({"items": 3}, "not of type 'object'"),
    ],
    ids=str,
)
def test_a_schema_that_is_none_is_refused(schema: Any, part: str) -> None:
    problem = complaint(schema, strict=False)
    assert problem is not None
    assert part in problem


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "array", "items": {}}, "got 'type: \"array\"'"),
        ({"type": "object", "properties": {}}, "'additionalProperties' is required"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            "Missing 'a'",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "In context=('properties', 'a'), 'additionalProperties'",
        ),
    ],
    ids=str,
)
def test_a_strict_schema_is_closed(schema: Any, part: str) -> None:
    assert complaint(schema, strict=False) is None
    problem = complaint(schema, strict=True)
    assert problem is not None
    assert part in problem


def test_strict_schemas_of_real_clients_pass() -> None:
    assert complaint(TREE, strict=True) is None
