"""Sets of cases as files: read, refused with the place, written so that a diff can be read; expectations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.rerun import judge
from aoai_gateway.rerun.case_set import Case, CaseSet, SetError, read_set, text_of, write_file
from aoai_gateway.rerun.expectations import CHECKS, ExpectationError, check, one

SET = """\
name: Support
deployment: gpt-4o
judge: {deployment: gpt-4o-mini}
cases:
  - name: Late order
    body:
      messages:
        - role: user
          content: |
            Where is my {{thing}}?
            On 2026-11-24 it was late.
    variables: {thing: order}
    expect:
      - contains: Tuesday
      - max_output_tokens: 100
"""


def write_set(path: Path, cases: CaseSet) -> None:
    write_file(path, text_of(cases, path))


def saved(folder: Path, text: str, name: str = "set.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_set_is_read(tmp_path: Path) -> None:
    found = read_set(saved(tmp_path, SET))
    assert (found.name, found.deployment, found.judge) == ("Support", "gpt-4o", {"deployment": "gpt-4o-mini"})
    (case,) = found.cases
    assert case.request()["messages"][0]["content"] == "Where is my order?\nOn 2026-11-24 it was late.\n"
    assert [*case.expect] == [{"contains": "Tuesday"}, {"max_output_tokens": 100}]


@pytest.mark.parametrize("name", ["set.yaml", "set.jsonl"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    found = read_set(saved(tmp_path, SET))
    write_set(tmp_path / name, found)
    assert read_set(tmp_path / name) == found


@pytest.mark.parametrize("name", ["set.yaml", "set.jsonl"])
@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n"])
def test_a_text_may_hold_all_that_unicode_takes_for_the_end_of_a_line(
    tmp_path: Path, name: str, end: str
) -> None:
    body = {"messages": [{"role": "user", "content": f"one{end}two"}]}
    written = CaseSet("set", (Case("c", "chat.completions", body),))
    write_set(tmp_path / name, written)
    assert read_set(tmp_path / name) == written


def test_lines_alone_are_a_set_too(tmp_path: Path) -> None:
    found = read_set(saved(tmp_path, '{"body": {}}\r\n\n{"name": "b", "body": {}}', "a.jsonl"))
    assert [case.name for case in found.cases] == ["case 1", "b"]
    write_set(tmp_path / "a.jsonl", found)
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"body": {}}\n{"body": ', r"a.jsonl: line 2, column 10"),
        ('{"set": []}', "line 1: set is a mapping"),
        ('{"set": {"cases": []}}', "line 1: set has no member 'cases'"),
        ('{"body": {"n": ' + "9" * 5000 + "}}", "digits"),
        ('{"body": {"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"body": {"a": 1e999}}', "JSON has no number inf"),
        ("7", "case 1 is no mapping"),
    ],
)
def test_lines_that_are_no_set(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SetError, match=says):
        read_set(saved(tmp_path, text, "a.jsonl"))


def test_a_file_keeps_its_mode_and_no_draft_is_left(tmp_path: Path) -> None:
    path = saved(tmp_path, SET)
    path.chmod(0o640)
    write_set(path, read_set(path))
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["set.yaml"]


def test_a_text_of_several_lines_is_written_as_lines(tmp_path: Path) -> None:
    body = {
        "messages": [{"role": "user", "content": "one\n\ntwo  \nthree"}, {"role": "user", "content": "a\nb"}]
    }
    write_set(tmp_path / "a.yaml", CaseSet("a", (Case("c", "chat.completions", body),)))
    text = (tmp_path / "a.yaml").read_text()
    assert "content: |-\n" in text
    assert read_set(tmp_path / "a.yaml").cases[0].body == body


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans() | st.none(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    )
)
def test_any_body_survives(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("sets") / "a.yaml"
    written = CaseSet("a", (Case("c", "chat.completions", {"v": value}),))
    write_set(path, written)
    assert read_set(path).cases[0].body == {"v": value}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cases: [", r"set.yaml, line 1, column 9"),
        ("nothing: 1", "a list of cases"),
        ("cases: [{body: 1}]", "case 1: body is a request"),
        ("cases: [{name: N, body: {}, expects: []}]", r"case 1 \(N\) has no member 'expects'"),
        ("cases: [{body: {}, expect: [{contain: x}]}]", "no expectation 'contain'"),
        ("cases: [{body: {}, expect: [{regex: '('}]}]", "regex: "),
        ("cases: [{body: {}, expect: [{max_latency_ms: soon}]}]", "max_latency_ms: a number"),
        ("cases: [{body: {}, expect: [{judge: {}}]}]", "a rubric is needed"),
        ("cases: [{body: {}, operation: images}]", "operation is one of"),
        ("cases: [{body: {a: .nan}}]", r"case 1: body: JSON has no number nan"),
        ("cases: [{body: {a: !!binary aGk=}}]", "JSON has nothing like a YAML bytes"),
        ("cases: [{body: {a: !!set {x}}}]", "JSON has nothing like a YAML set"),
        ("cases: [{body: {on: 1}}]", "the name True is no text"),
        ("cases: [{body: {}, variables: {a: [1]}}]", "variables is a mapping of texts"),
        ("cases: &a [*a]", "case 1 is no mapping"),
        ("cases: [{body: &a {b: *a}}]", "nested too deeply"),
        ("cases: [{body: {}, expect: [{regex: 'a{99999999999}'}]}]", "regex: "),
        ("cases: [{body: {}, expect: [{regex: '" + "(" * 5000 + "'}]}]", "regex: it is nested too deeply"),
        ("cases: [{body: {}, expect: [{regex: '" + "a" * 10_001 + "'}]}]", "10,000 characters are the most"),
        ("- !!python/object/apply:os.system [true]", "constructor"),
    ],
)
def test_what_is_no_set(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SetError, match=says):
        read_set(saved(tmp_path, text))


ANSWER = {
    "text": '{"a": 1}', "error": "", "finish_reason": "stop", "input_tokens": 10, "output_tokens": 20,
    "total_ms": 500, "first_ms": None,
}  # fmt: skip

KEPT: list[dict[str, Any]] = [
    {"contains": '"a"'}, {"ignoring_case": '"A"'}, {"not_contains": "b"}, {"equals": ' {"a": 1}\n'},
    {"regex": r"^\{.*\}$"}, {"json_schema": {"required": ["a"]}}, {"json_equals": {"a": 1}},
    {"finish_reason": "stop"}, {"max_output_tokens": 20}, {"max_input_tokens": 10}, {"max_latency_ms": 500},
]  # fmt: skip
MISSED: list[dict[str, Any]] = [
    {"contains": "b"}, {"ignoring_case": "B"}, {"not_contains": "a"}, {"equals": "a"}, {"regex": "^a"},
    {"json_schema": {"required": ["b"]}}, {"json_schema": {"type": "nonsense"}},
    {"json_schema": {"$ref": "https://example.invalid/x"}}, {"json_equals": {"a": 2}},
    {"finish_reason": "length"}, {"max_output_tokens": 19}, {"max_input_tokens": 9},
    {"max_latency_ms": 499}, {"max_first_token_ms": 10},
]  # fmt: skip


@pytest.mark.parametrize("expected", KEPT, ids=str)
def test_an_answer_keeps_to_it(expected: dict[str, Any]) -> None:
    assert check([expected], ANSWER)[0]["passed"] is True


@pytest.mark.parametrize("expected", MISSED, ids=str)
def test_an_answer_does_not(expected: dict[str, Any]) -> None:
    (result,) = check([expected], ANSWER)
    assert result["passed"] is False
    assert result["detail"]


def test_every_kind_is_tried() -> None:
    assert {name for each in KEPT + MISSED for name in each} == set(CHECKS)


def test_an_error_keeps_to_nothing() -> None:
    failed = {**ANSWER, "error": "429: slow down"}
    results = check([*KEPT, {"judge": {"rubric": "r"}}], failed)
    assert {(each["passed"], each["detail"]) for each in results} == {(False, "429: slow down")}


def test_a_judge_is_for_later() -> None:
    assert check([{"judge": {"rubric": "r"}}], ANSWER)[0]["passed"] is None


@pytest.mark.parametrize(
    "expected",
    [
        {}, {"a": 1, "b": 2}, {"contains": 1}, {"max_latency_ms": True}, {"max_latency_ms": -1},
        {"max_latency_ms": float("nan")}, {"max_input_tokens": 10**400}, {"regex": "a{1,99999999999}"},
        {"regex": "(" * 3000 + ")" * 3000}, {"regex": "a" * 10_001}, {"regex": 7}, {"contains": ["a"]},
    ],
)  # fmt: skip
def test_what_is_no_expectation(expected: dict[str, Any]) -> None:
    with pytest.raises(ExpectationError):
        one(expected)


def test_a_schema_may_refer_to_itself() -> None:
    inner = {"$defs": {"a": {"$id": "urn:example:a", "const": 1}}, "properties": {"a": {"$ref": "#/$defs/a"}}}
    for schema in (inner, {**inner, "properties": {"a": {"$ref": "urn:example:a"}}}):
        (result,) = check([{"json_schema": schema}], ANSWER)
        assert result == {"expect": "json_schema", "passed": True, "detail": ""}


def test_nothing_is_fetched_for_a_schema(tmp_path: Path) -> None:
    elsewhere = tmp_path / "schema.json"
    elsewhere.write_text("{}")
    for reference in (elsewhere.as_uri(), str(elsewhere), "https://example.invalid/x", "#/$defs/none"):
        (result,) = check([{"json_schema": {"$ref": reference}}], ANSWER)
        assert result["passed"] is False
        named = reference.removeprefix("#")
        assert result["detail"] == f"the schema refers to {named!r}, which is not in it"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"pattern": "("},
        {"properties": {"a": {"multipleOf": 1e-320}}},
        {"$id": 5},
        {"$schema": []},
        {"$schema": "https://example.invalid/another"},
        {"$dynamicRef": "#nothing"},
        {"$anchor": "a b"},
        {"minimum": 10**400, "maximum": -(10**400)},
        {"patternProperties": {"a{99999999999}": {}}},
        {"$defs": {"a": {"$id": "http://[", "const": 1}}, "$ref": "#/$defs/a"},
    ],
    ids=str,
)
def test_a_schema_of_any_shape_is_read_or_refused(schema: dict[str, Any]) -> None:
    (result,) = check([{"json_schema": schema}], ANSWER)
    assert result["passed"] in (True, False)
    assert result["passed"] or result["detail"]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ('{"passed": true, "reason": "fine"}', (True, "fine")),
        ('Sure:\n```json\n{"passed": false}\n```', (False, "")),
    ],
)
def test_a_judge_says_yes_or_no(said: str, verdict: tuple[bool, str]) -> None:
    assert judge.verdict(said) == verdict


@pytest.mark.parametrize("said", ["", "yes", "{}", '{"passed": "true"}', "{{{{", '{"passed": 1}'])
def test_a_judge_that_says_neither(said: str) -> None:
    with pytest.raises(judge.JudgeError):
        judge.verdict(said)
