"""Errors as clients see them: shape, hints, and what the SDKs make of an error in a stream."""

import json
import sys
from types import ModuleType

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire import errors
from aoai_gateway.wire.errors import GatewayError, retry_headers, stream_error_event

EVERY_ERROR = [
    (errors.unauthorized(), 401, "401"),
    (errors.invalid_token(), 401, "invalid_token"),
    (errors.forbidden("No."), 403, "forbidden"),
    (errors.deployment_not_allowed("gpt-4o", ["a", "b"]), 403, "DeploymentNotAllowed"),
    (errors.no_limit_configured("gpt-4o"), 403, "no_limit_configured"),
    (errors.deployment_not_found("x", ["gpt-4o"]), 404, "DeploymentNotFound"),
    (errors.not_found("/x", "Paths begin elsewhere."), 404, "404"),
    (errors.method_not_allowed("PUT", ["POST"]), 405, "method_not_allowed"),
    (errors.not_built("files"), 501, "not_built"),
    (errors.invalid_target("No."), 400, "invalid_target"),
    (errors.invalid_body("No.", param="model"), 400, "invalid_body"),
    (errors.missing_deployment(), 400, "missing_deployment"),
    (errors.parameter_over_limit("max_tokens", 9, 5), 400, "parameter_over_limit"),
    (errors.priority_not_allowed("x", ["a", "b"]), 400, "priority_not_allowed"),
    (errors.body_too_large(100 * 2**20), 413, "request_too_large"),
    (errors.head_malformed(), 400, "head_malformed"),
    (errors.head_too_large(65536), 431, "head_too_large"),
    (errors.rate_limited("Tokens are used up.", 7, "quota_exceeded"), 429, "quota_exceeded"),
    (errors.all_backends_out("gpt-4o", 7, [("ptu", "429", 7)]), 429, "all_backends_out"),
    (errors.unavailable("The gateway is shutting down."), 503, "unavailable"),
    (errors.internal(), 500, "internal_error"),
    (errors.upstream_disconnected(), 502, "upstream_disconnected"),
    (errors.upstream_timeout(30), 504, "upstream_timeout"),
]


@pytest.mark.parametrize(("error", "status", "code"), EVERY_ERROR, ids=lambda value: str(value)[:40])
def test_every_error_has_azures_shape(error: GatewayError, status: int, code: str) -> None:
    assert error.status == status
    document = json.loads(error.body())
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "type", "param"}
    assert document["error"]["code"] == code
    assert document["error"]["message"].endswith((".", "…"))
    assert f" {code}: " in f" {error}"


@pytest.mark.parametrize(("error", "status", "code"), EVERY_ERROR, ids=lambda value: str(value)[:40])
def test_every_code_is_in_the_table(error: GatewayError, status: int, code: str) -> None:
    assert any(line.split()[:2] == [code, str(status)] for line in (errors.__doc__ or "").splitlines())


def test_an_error_can_be_raised_and_keeps_its_traceback() -> None:
    with pytest.raises(GatewayError) as caught:
        raise errors.internal()
    assert caught.value.__traceback__ is not None


def test_not_allowed_names_what_is() -> None:
    assert "gpt-4o, gpt-35-turbo" in errors.deployment_not_allowed("o3", ["gpt-4o", "gpt-35-turbo"]).message


def test_names_from_outside_are_bounded_and_printable() -> None:
    message = errors.deployment_not_found("x\r\nset-cookie: a=b\udc80" + "y" * 5000).message
    assert "\n" not in message
    assert len(message) < 300
    message.encode()


def test_not_found_never_quotes_the_query() -> None:
    assert "hunter2" not in errors.not_found("/x?api-key=hunter2", "").message


def test_all_backends_out_says_which_and_why() -> None:
    error = errors.all_backends_out(
        "gpt-4o", 0.4, [("sweden/gpt-4o-ptu", "429 RateLimitReached", 0.4), ("france", "connect", 12.2)]
    )
    assert "sweden/gpt-4o-ptu: 429 RateLimitReached, back in 1 second;" in error.message
    assert "france: connect, back in 13 seconds)" in error.message
    assert error.message.endswith("Please retry after 1 second.")
    assert dict(error.headers) == {"retry-after-ms": "400", "retry-after": "1"}


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
