"""Usage objects of every family, and junk in their place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.usage import AnswerFacts, Usage, read_answer, read_usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 1566,
                "completion_tokens": 1518,
                "total_tokens": 3084,
                "prompt_tokens_details": {"cached_tokens": 1408, "audio_tokens": None},
                "completion_tokens_details": {"reasoning_tokens": 576, "audio_tokens": None},
            },
            Usage(1566, 1518, 3084, cached_tokens=1408, reasoning_tokens=576),
        ),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0, 8)),
        (
            {
                "input_tokens": 12,
                "input_tokens_details": {"cached_tokens": 3},
                "output_tokens": 286,
                "output_tokens_details": {"reasoning_tokens": 256},
                "total_tokens": 298,
            },
            Usage(12, 286, 298, cached_tokens=3, reasoning_tokens=256),
        ),
        (
            {
                "total_tokens": 50,
                "input_tokens": 20,
                "output_tokens": 30,
                "input_token_details": {"audio_tokens": 9, "cached_tokens": 1},
                "output_token_details": {"audio_tokens": 25},
            },
            Usage(20, 30, 50, cached_tokens=1, input_audio_tokens=9, output_audio_tokens=25),
        ),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(3, 4, 7)),
        ({"prompt_tokens": 3, "total_tokens": 9}, Usage(3, 6, 9)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
    ],
)
def test_every_shape(usage: object, expected: Usage) -> None:
    assert read_usage(usage) == expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "x",
        {},
        {"type": "duration", "seconds": 9},
        {"prompt_tokens": "8"},
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": 1.5},
        {"prompt_tokens": 10**30},
    ],
)
def test_what_holds_no_counts(usage: object) -> None:
    assert read_usage(usage) is None


def test_facts_of_a_chat_completion() -> None:
    answer = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}, {"finish_reason": None}, 1],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    assert read_answer(json.dumps(answer).encode()) == AnswerFacts(
        Usage(1, 2, 3), "gpt-4o-2024-08-06", "chatcmpl-1", ("stop", "length")
    )


@pytest.mark.parametrize(
    ("response", "reasons"),
    [
        ({"status": "completed"}, ("completed",)),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, ("content_filter",)),
        ({"status": "incomplete", "incomplete_details": None}, ("incomplete",)),
        ({}, ()),
    ],
)
def test_facts_of_a_response(response: dict[str, Any], reasons: tuple[str, ...]) -> None:
    raw = json.dumps({"object": "response", "id": "resp_1", **response}).encode()
    assert read_answer(raw) == AnswerFacts(None, None, "resp_1", reasons, response.get("status"))


@given(st.binary(max_size=64) | st.text(alphabet='{}[]":,usage1', max_size=40).map(str.encode))
def test_junk_has_no_facts_and_no_exception(raw: bytes) -> None:
    facts = read_answer(raw)
    assert facts.usage is None or isinstance(facts.usage, Usage)
    assert read_answer(raw).usage == facts.usage


def test_a_large_answer_is_searched_and_not_decoded() -> None:
    vectors = [{"embedding": [0.25] * 1536, "index": index} for index in range(20)]
    answer = {"data": vectors, "model": "ada", "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    for raw in (json.dumps(answer), json.dumps(dict(reversed(answer.items())), indent=1)):
        assert len(raw) > 65_536
        assert read_answer(raw.encode()).usage == Usage(8, 0, 8)
        assert read_answer(raw.encode()) == AnswerFacts(Usage(8, 0, 8), "ada")
    del answer["usage"], answer["model"]
    assert read_answer(json.dumps(answer).encode()) == AnswerFacts()


@pytest.mark.parametrize("filler", ["", "x" * 70_000])
def test_a_long_id_is_kept_whole(filler: str) -> None:
    """By it the response is found again, at its backend and in the books."""
    ident = "resp_" + "aZ-_9" * 100 + "="
    answer = {"id": ident, "object": "response", "status": "completed", "output": filler}
    assert read_answer(json.dumps(answer).encode()).response_id == ident


def test_in_a_large_answer_only_an_object_with_counts_is_usage() -> None:
    quoted = '"usage":{"prompt_tokens":99,"total_tokens":99}'
    answer = {
        "output": [{"text": quoted + "x" * 70_000}],
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        "tools": [{"parameters": {"properties": {"usage": {"type": "string"}}}}],
    }
    assert read_answer(json.dumps(answer).encode()).usage == Usage(1, 2, 3)
    echo = {"metadata": {"usage": {"total_tokens": 99}}}
    assert read_answer(json.dumps({**echo, **answer}).encode()).usage == Usage(1, 2, 3)
    del answer["usage"]
    assert read_answer(json.dumps(answer).encode()).usage is None
    assert read_answer(b'{"usage":{' + b"x" * 70_000).usage is None
