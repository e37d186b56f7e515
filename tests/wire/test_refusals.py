"""Which refusals another deployment may better, by the errors that servers send."""

import json
from typing import Any

import pytest

from aoai_gateway.wire.refusals import Refusal, refusal_in, refusal_of

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
