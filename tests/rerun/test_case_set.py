"""Sets of cases as files: read, refused with the place, written so that a diff can be read; expectations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.rerun import judge
from aoai_gateway.rerun.case_set import Case, CaseSet, SetError, read_set, write_set
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
    assert read_set(tmp_path / name).cases == found.cases


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


@pytest.mark.parametrize("expected", [{}, {"a": 1, "b": 2}, {"contains": 1}, {"max_latency_ms": True}])
def test_what_is_no_expectation(expected: dict[str, Any]) -> None:
    with pytest.raises(ExpectationError):
        one(expected)


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
