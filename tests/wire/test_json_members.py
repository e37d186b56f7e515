"""The places of an object's members, against what ``json.loads`` reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.json_members import NotJsonError, read_document, without_member

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=6) | st.sampled_from(["usage", "model"]), VALUES, max_size=6)
LAYOUTS = st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (2, (",", " : ")), ("\t", (",", ":"))])


def dump(document: object, layout: tuple[int | str | None, tuple[str, str]], ascii_only: bool) -> str:
    indent, separators = layout
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=ascii_only)


@given(OBJECTS, LAYOUTS, st.booleans())
def test_every_member_is_where_it_says(
    document: dict[str, object], layout: tuple[int | str | None, tuple[str, str]], ascii_only: bool
) -> None:
    text = " \r\n" + dump(document, layout, ascii_only) + "\t"
    members = read_document(text)
    assert {member.key: member.value for member in members} == document
    for member in members:
        assert json.loads(text[member.value_start : member.end]) == member.value
        key, _, rest = text[member.start : member.end].rpartition(text[member.value_start : member.end])
        assert json.loads(key.strip().rstrip(":").strip() if not rest else "") == member.key


@given(OBJECTS, LAYOUTS, st.booleans())
def test_a_member_is_taken_out_with_its_comma(
    document: dict[str, object], layout: tuple[int | str | None, tuple[str, str]], ascii_only: bool
) -> None:
    text = dump(document, layout, ascii_only)
    kept = without_member(text, read_document(text), "usage")
    without = {key: value for key, value in document.items() if key != "usage"}
    assert json.loads(kept) == without
    if "usage" not in document:
        assert kept == text
    elif without and layout[0] is None:
        assert kept == dump(without, layout, ascii_only)


@given(st.text(alphabet='{}[]",:\\ \n0123456789.eE+-truefalsn\u00e9', max_size=24))
def test_the_same_texts_are_json_as_for_the_standard_library(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        read: object = {member.key: member.value for member in read_document(text)}
    except NotJsonError:
        read = None
    assert read == (expected if isinstance(expected, dict) else None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "not an object"),
        ('"x"', "not an object"),
        ("", "an object is expected (line 1, column 1)"),
        ('{"a":1\n "b":2}', "a comma is expected (line 2, column 2)"),
        ('{"a" 1}', "a colon is expected (line 1, column 6)"),
        ('{"a":1,}', "nothing follows a comma (line 1, column 7)"),
        ("{a:1}", "a name in double quotes is expected (line 1, column 2)"),
        ('{"a":}', "something else is expected (line 1, column 6)"),
        ('{"a":1}\n{}', "more follows after its end (line 2, column 1)"),
        ('{"a":1', "it ends before it is complete (line 1, column 7)"),
        ('{"a":"\\x"}', "a text holds an unknown escape (line 1, column 7)"),
        ('{"a":"\x01"}', "a control character in a text must be escaped (line 1, column 7)"),
        ('{"a":"x}', "a text has no closing quote (line 1, column 6)"),
        # Python 3.12 and 3.13 name different places of these two, in different words.
        ('{"a":[1, 2,\n ]}', "nothing follows a comma (line 1, column 11)"),
        ('{"a":{"b":1,\n }}', "nothing follows a comma (line 1, column 12)"),
        ('{"a":[1 2]}', "something else is expected (line 1, column 9)"),
        ('{"a":[NaN]}', "NaN"),
        ('{"a":-Infinity}', "-Infinity"),
        ('{"a":' + "9" * 5000 + "}", "too many digits"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100_000, "an object is expected"),
        ('\u00a0{"a":1}', "an object is expected"),
    ],
)
def test_what_is_wrong_and_where(text: str, reason: str) -> None:
    with pytest.raises(NotJsonError) as caught:
        read_document(text)
    assert reason in str(caught.value)
