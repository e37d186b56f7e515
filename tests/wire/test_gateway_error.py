"""An error on the wire: when SDKs come back, and what they make of an error in a stream."""

import json
import sys
from types import ModuleType

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire import errors
from aoai_gateway.wire.gateway_error import retry_headers, stream_error_event


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (6.4, {"retry-after-ms": "6400", "retry-after": "7"}),
        (16.1, {"retry-after-ms": "16100", "retry-after": "17"}),
        (0, {"retry-after-ms": "1", "retry-after": "1"}),
        (-3, {"retry-after-ms": "1", "retry-after": "1"}),
        (0.0001, {"retry-after-ms": "1", "retry-after": "1"}),
        (60, {"retry-after-ms": "60000", "retry-after": "60"}),
        (60.01, {"retry-after": "61", "x-should-retry": "false"}),
        (86400, {"retry-after": "86400", "x-should-retry": "false"}),
        (float("inf"), {"x-should-retry": "false"}),
        (float("nan"), {"x-should-retry": "false"}),
    ],
)
def test_retry_headers(seconds: float, expected: dict[str, str]) -> None:
    assert dict(retry_headers(seconds)) == expected


@given(st.floats(min_value=0, max_value=60))
def test_a_client_that_obeys_never_comes_too_early(seconds: float) -> None:
    headers = dict(retry_headers(seconds))
    assert 1 <= int(headers["retry-after-ms"]) <= 60_000
    assert int(headers["retry-after-ms"]) / 1000 >= seconds - 1e-6
    assert int(headers["retry-after"]) >= seconds - 1e-6


# --- in a stream ------------------------------------------------------------------------------------

CHAT_CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
)
RESPONSE_EVENT = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":3,'
    b'"item_id":"i","output_index":0,"content_index":0,"delta":"Hi","logprobs":[]}\n\n'
)


def _http() -> ModuleType:
    """The HTTP library that the installed SDK uses (httpx, later httpx2)."""
    return sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]


def _client(body: bytes) -> openai.OpenAI:
    http = _http()

    def answer(_: object) -> object:
        return http.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    return openai.OpenAI(
        api_key="k",
        base_url="http://gateway/openai/v1/",
        http_client=http.Client(transport=http.MockTransport(answer)),
        max_retries=0,
    )


def test_python_sdk_raises_for_a_broken_chat_stream() -> None:
    body = CHAT_CHUNK + stream_error_event("chat.completions", errors.upstream_disconnected())
    stream = _client(body).chat.completions.create(model="m", messages=[], stream=True)
    assert next(stream).choices[0].delta.content == "Hi"
    with pytest.raises(openai.APIError, match="broke off") as caught:
        next(stream)
    assert caught.value.code == "upstream_disconnected"


def test_python_sdk_raises_for_a_broken_completions_stream() -> None:
    body = stream_error_event("completions", errors.upstream_timeout(30))
    with pytest.raises(openai.APIError, match="30 seconds"):
        list(_client(body).completions.create(model="m", prompt="", stream=True))


def test_python_sdk_raises_for_a_broken_responses_stream() -> None:
    body = RESPONSE_EVENT + stream_error_event("responses", errors.upstream_disconnected(), sequence_number=4)
    stream = _client(body).responses.create(model="m", input="", stream=True)
    assert next(stream).type == "response.output_text.delta"
    with pytest.raises(openai.APIError, match="broke off") as caught:
        next(stream)
    assert caught.value.code == "upstream_disconnected"


def test_a_responses_error_is_flat_and_nested_at_once() -> None:
    event = stream_error_event("responses", errors.upstream_disconnected(), sequence_number=9)
    name, data, blank, end = event.split(b"\n")
    assert (name, blank, end) == (b"event: error", b"", b"")
    document = json.loads(data.removeprefix(b"data: "))
    assert document["type"] == "error"
    assert document["sequence_number"] == 9
    assert document["code"] == document["error"]["code"] == "upstream_disconnected"
    assert document["error"]["type"] == "server_error"


@pytest.mark.parametrize("operation", ["chat.completions", "completions", "responses"])
def test_a_broken_stream_never_looks_complete(operation: str) -> None:
    assert b"[DONE]" not in stream_error_event(operation, errors.internal(), mid_event=True)


def test_python_sdk_still_fails_in_the_midst_of_an_event() -> None:
    """No bytes can take half an event back; what is documented is that the SDK fails, not how nicely."""
    body = CHAT_CHUNK[:30] + stream_error_event(
        "chat.completions", errors.upstream_disconnected(), mid_event=True
    )
    with pytest.raises(json.JSONDecodeError):
        list(_client(body).chat.completions.create(model="m", messages=[], stream=True))
