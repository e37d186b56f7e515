"""What errors of backends say: which status they stand for, and which ones another deployment may better."""

import json
from typing import Any

import pytest

from aoai_gateway.wire.backend_errors import Refusal, describe, refusal_in, refusal_of, status_of

FILTERED = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management …",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
}


@pytest.mark.parametrize(
    "error",
    [
        FILTERED,
        {"code": "content_filter"},
        {"code": "400", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
        {"code": "content_policy_violation"},
        {"code": "contentFilter"},
        {"code": "moderation_blocked"},
    ],
)
def test_a_content_filter_is_known_by_its_code(error: dict[str, Any]):
    assert refusal_in(error) is Refusal.CONTENT_FILTER
    assert refusal_of(400, json.dumps({"error": error}).encode()) is Refusal.CONTENT_FILTER


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "Your input is too long."},
        {"code": None, "message": "This model's maximum context length is 8191 tokens, however you …"},
        {"code": "BadRequest", "message": "This model's maximum context length is 128000 tokens."},
        {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
        {"message": "Input tokens exceed the configured limit of 272000 tokens. Your messages …"},
        {"code": None, "message": "Your input exceeds the context window of this model."},
    ],
)
def test_a_context_that_is_too_long_is_known_by_code_or_message(error: dict[str, Any]):
    assert refusal_of(400, json.dumps({"error": error}).encode()) is Refusal.CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":"invalid_prompt","message":"repetitive patterns"}}'),
        (400, b'{"error":{"code":null,"message":"You said: prompt is too long"}}'),
        (400, b"<html>content_filter</html>"),
        (400, b'{"error":{"code":["content_filter"],"innererror":"content_filter","message":7}}'),
        (400, b""),
        (200, b'{"error":{"code":"content_filter"}}'),
        (500, b'{"error":{"code":"content_filter"}}'),
    ],
)
def test_each_other_answer_is_the_clients(status: int, body: bytes):
    assert refusal_of(status, body) is None


@pytest.mark.parametrize(
    "code",
    [
        "429",
        429,
        "RateLimitReached",
        "rate_limit_reached",
        "rate_limit_exceeded",
        "too_many_requests",
        "no_capacity",
    ],
)
def test_throttle_codes(code: object) -> None:
    assert status_of({"code": code}) == 429


@pytest.mark.parametrize("code", [None, True, "", "content_filter", "server_error", 500, 42.9, ["429"], {}])
def test_codes_that_are_no_throttling(code: object) -> None:
    assert status_of({"code": code}) != 429


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (429, b'{"error":{"code":"429","message":"hunter2"}}', "429"),
        (429, b'{"error":{"code":"RateLimitReached","message":"hunter2"}}', "429 RateLimitReached"),
        (429, b'{"error":{"code":null,"type":"too_many_requests"}}', "429 too_many_requests"),
        (400, b'{"error":{"code":"hunter2 said: no"}}', "400"),
        (503, b'{"statusCode":503,"code":7}', "503 7"),
        (500, b"<html>hunter2</html>", "500"),
        (500, b'{"error":"hunter2"}', "500"),
        (500, b"[1]", "500"),
        (500, b"[" * 200_000, "500"),
        (502, None, "502"),
    ],
)
def test_a_failed_response_in_a_few_words(status: int, body: bytes | None, words: str) -> None:
    assert describe(status, body) == words
