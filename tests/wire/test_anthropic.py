"""Claude's dialect: what its streams mean, what its errors look like, what its paths and keys are."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire import errors
from aoai_gateway.wire.anthropic import MessageEvents, error_type
from aoai_gateway.wire.backend_errors import is_deployment_missing, is_key_refused, status_of
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.credential_errors import unauthorized
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.dialects import ANTHROPIC, DIALECTS, OPENAI
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.hints import LIMIT_HEADERS, read_rate_limits, retry_hint
from aoai_gateway.wire.operations import CLAUDES, CLAUDES_UNKNOWN, MESSAGES
from aoai_gateway.wire.secrets import client_credential, credential_fields
from aoai_gateway.wire.sse import SseEvent
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import StreamError, Verdict
from aoai_gateway.wire.targets import dialect_of, parse_target
from aoai_gateway.wire.usage import Usage, read_answer, read_usage, search_answer


def event(name: str, **members: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json.dumps({"type": name, **members}).encode())


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 1,
            "service_tier": "priority",
        },
    },
)
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
THINKING = event(
    "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
)
PING = event("ping")
HELLO = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
WORLD = event("content_block_delta", index=0, delta={"type": "text_delta", "text": " \u00e9\n"})
BLOCK_END = event("content_block_stop", index=0)
END = event(
    "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 7}
)
STOP = event("message_stop")
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
WHOLE = (START, TEXT, PING, HELLO, WORLD, BLOCK_END, END, STOP)


def reader() -> StreamReader:
    return StreamReader("messages", dialect=ANTHROPIC)


def read(*events: bytes) -> StreamReader:
    found = reader()
    for each in events:
        assert found.feed(each) == each
    found.flush()
    return found


def test_a_whole_stream() -> None:
    found = read(*WHOLE)
    assert found.is_complete(cut_short=True)
    assert found.verdict is Verdict.ACCEPTED
    assert found.usage == Usage(1110, 7, 1117, cached_tokens=1000, cache_write_tokens=100)
    assert (found.model, found.response_id, found.service_tier) == ("claude-sonnet-5", "msg_1", "priority")
    assert found.finish_reasons == ["end_turn"]
    assert found.delivered.text() == "Hello \u00e9\n"


@given(st.data())
def test_where_reads_end_makes_no_difference(data: st.DataObject) -> None:
    stream = b"".join(WHOLE)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    found = reader()
    out = b"".join(found.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))
    assert out + found.flush() == stream
    assert found.usage == read(*WHOLE).usage
    assert found.delivered.text() == "Hello \u00e9\n"


@pytest.mark.parametrize("block", [TEXT, THINKING])
def test_what_has_no_content_can_be_held_back(block: bytes) -> None:
    found = reader()
    for each in (START, PING, block, PING, BLOCK_END):
        found.feed(each)
        assert found.verdict is Verdict.UNDECIDED
    found.feed(HELLO)
    assert found.verdict is Verdict.ACCEPTED


def test_the_name_of_a_tool_is_content() -> None:
    found = reader()
    found.feed(START)
    block = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    found.feed(event("content_block_start", index=0, content_block=block))
    assert found.verdict is Verdict.ACCEPTED
    piece = {"type": "input_json_delta", "partial_json": '{"a": 1}'}
    found.feed(event("content_block_delta", index=0, delta=piece))
    assert found.delivered.text() == 'look{"a": 1}'


@pytest.mark.parametrize("before", [(), (START,), (START, PING, TEXT)])
@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500), ("timeout_error", 504)],
)
def test_an_error_before_any_content_is_a_refusal(before: tuple[bytes, ...], kind: str, status: int) -> None:
    found = read(*before, event("error", error={"type": kind, "message": "…"}))
    assert found.verdict is Verdict.REFUSED
    assert found.error == StreamError(None, kind, status)


def test_the_callers_own_error_is_none() -> None:
    error = event("error", error={"type": "invalid_request_error", "message": "…"})
    assert read(START, error).verdict is Verdict.ACCEPTED


def test_an_error_after_content_is_the_clients_to_see() -> None:
    found = read(START, TEXT, HELLO, OVERLOADED)
    assert found.verdict is Verdict.ACCEPTED
    assert found.error is not None
    assert found.error.status == 529
    assert found.usage is None


def test_events_without_their_names_are_read_by_their_type() -> None:
    bare = [each.partition(b"\n")[2] for each in WHOLE]
    found = read(*bare)
    assert found.usage is not None
    assert found.usage.output_tokens == 7
    refused = read(START, OVERLOADED.partition(b"\n")[2])
    assert refused.verdict is Verdict.REFUSED


def test_a_stream_that_breaks_off_has_only_the_usage_of_its_prompt() -> None:
    """The figure of its beginning is one token; what was delivered has to be counted."""
    found = read(*WHOLE[:5])
    assert not found.is_complete(cut_short=False)
    assert found.usage is None
    assert found.delivered
    assert found.delivered.prompt == Usage(1110, 0, 1110, cached_tokens=1000, cache_write_tokens=100)


def test_a_stream_without_its_last_event_is_complete_where_its_reason_has_come() -> None:
    found = read(*WHOLE[:-1])
    assert found.is_complete(cut_short=False)
    assert not found.is_complete(cut_short=True)


def test_the_figures_of_the_end_count_and_nulls_say_nothing() -> None:
    usage = {"input_tokens": 20, "cache_read_input_tokens": None, "output_tokens": 9}
    more = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3})
    last = event("message_delta", delta={"stop_reason": "tool_use"}, usage=usage)
    found = read(START, TEXT, HELLO, more, last, STOP)
    assert found.usage == Usage(1120, 9, 1129, cached_tokens=1000, cache_write_tokens=100)
    assert found.finish_reasons == ["tool_use"]


def test_what_summed_up_the_conversation_counts_too() -> None:
    compaction = {
        "type": "compaction",
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_input_tokens": 50,
    }
    message = {"type": "message", "input_tokens": 20, "output_tokens": 7}
    usage = {"output_tokens": 7, "iterations": [compaction, message, None, {"type": "compaction"}]}
    found = read(
        START, TEXT, HELLO, event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage), STOP
    )
    assert found.usage == Usage(1110 + 150, 17, 1117 + 160, cached_tokens=1050, cache_write_tokens=100)


def test_a_backend_cannot_make_the_figures_grow() -> None:
    own = MessageEvents()
    for number in range(100):
        odd = event("message_delta", usage={f"x{number}": 1, "output_tokens": number})
        own.read(SseEvent(odd, b"message_delta", odd.partition(b"data: ")[2]), accepted=True)
    assert own._usage == {"output_tokens": 99}


def test_a_large_error_is_searched() -> None:
    error = {"type": "overloaded_error", "message": "x" * 100_000}
    found = read(START, event("error", error=error))
    assert found.verdict is Verdict.REFUSED
    assert found.error is not None
    assert found.error.status == 529


def test_unknown_events_pass_and_count_as_content() -> None:
    found = read(START, event("something_new", index=0))
    assert found.verdict is Verdict.ACCEPTED
    assert found.content_events == 1


def test_large_events_are_not_decoded() -> None:
    text = "x" * 100_000
    big = event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    found = read(START, TEXT, big, END, STOP)
    assert found.delivered.kept_bytes + found.delivered.beyond >= 100_000
    assert found.usage is not None
    huge = event("content_block_start", index=0, content_block={"type": "search", "found": [text]})
    assert read(START, huge).verdict is Verdict.ACCEPTED
    oversized = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "y" * 2_000_000})
    found = reader()
    assert (
        b"".join(found.feed(part) for part in (START, oversized, END, STOP)) == START + oversized + END + STOP
    )
    assert found.delivered.beyond > 1_000_000


JUNK = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "usage", "delta", "content_block", "error", "type"]), inner
        )
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["message_start", "message_delta", "content_block_start", "content_block_delta", "error", "ping"]
)


@given(st.lists(st.tuples(NAMES, JUNK), max_size=4))
def test_no_event_is_too_odd(events: list[tuple[str, Any]]) -> None:
    found = reader()
    for name, body in events:
        raw = b"event: %s\ndata: %s\n\n" % (name.encode(), json.dumps(body).encode())
        assert found.feed(raw) == raw
    found.flush()
    found.is_complete(cut_short=False)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (unauthorized(), "authentication_error"),
        (errors.forbidden("no"), "permission_error"),
        (errors.deployment_not_found("x"), "not_found_error"),
        (errors.method_not_allowed("PUT", ["POST"]), "invalid_request_error"),
        (errors.missing_deployment(), "invalid_request_error"),
        (errors.too_slow("body"), "timeout_error"),
        (errors.body_too_large(5), "request_too_large"),
        (errors.rate_limited("No.", 3), "rate_limit_error"),
        (errors.internal(), "api_error"),
        (errors.upstream_disconnected(), "api_error"),
        (errors.unavailable("No."), "overloaded_error"),
        (errors.upstream_timeout(3), "timeout_error"),
        (errors.not_built("x"), "api_error"),
    ],
)
def test_errors_of_the_gateways_own(error: GatewayError, kind: str) -> None:
    body = json.loads(ANTHROPIC.error_body(error, "call-1"))
    assert body["type"] == "error"
    assert body["error"]["type"] == kind == error_type(error.status)
    assert body["error"]["message"] == error.message
    assert body["error"]["details"]["error_code"] == error.code
    assert body["request_id"] == "call-1"
    assert json.loads(OPENAI.error_body(error, "call-1")) == json.loads(error.body())


def test_a_stream_that_breaks_ends_in_an_error_event() -> None:
    found = reader()
    found.feed(START + TEXT + HELLO)
    last = found.break_off(errors.upstream_disconnected())
    again = read(START, TEXT, HELLO, last)
    assert again.error == StreamError(None, "api_error", 500)


def test_what_its_errors_stand_for() -> None:
    assert status_of({"type": "overloaded_error"}) == 529
    assert status_of({"type": "rate_limit_error"}) == 429
    assert status_of({"code": 529}) == 529
    assert status_of({"type": "not_found_error"}) is None


def test_a_key_or_a_model_that_is_refused() -> None:
    key = b'{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}'
    assert is_key_refused(key)
    model = b'{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}'
    assert is_deployment_missing(404, model)
    other = b'{"type":"error","error":{"type":"not_found_error","message":"File not found"}}'
    assert not is_deployment_missing(404, other)


def test_hints_of_its_limits() -> None:
    now = 1_700_000_000.0
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:21Z",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:14:00Z",
    }
    assert retry_hint(headers, None, now) == 40
    limits = read_rate_limits(headers)
    assert (limits.limit_requests, limits.remaining_requests) == (50, 49)
    assert (limits.limit_tokens, limits.remaining_tokens) == (30_000, 0)
    assert set(headers) <= LIMIT_HEADERS
    assert retry_hint({"retry-after": "7", **headers}, None, now) == 7


# --- usage -----------------------------------------------------------------------------------------------


def test_its_usage_counts_beside_each_other_what_others_count_within() -> None:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 4},
    }
    expected = Usage(123, 5, 128, cached_tokens=100, reasoning_tokens=4, cache_write_tokens=20)
    assert read_usage(usage) == expected
    # As servers write it that translate it to OpenAI's.
    translated = {**usage, "prompt_tokens": 123, "completion_tokens": 5, "total_tokens": 128}
    assert read_usage(translated) == expected
    assert read_usage({"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": None}) == Usage(
        3, 5, 8
    )


def test_a_whole_message() -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-sonnet-5",
        "content": [{"type": "text", "text": "Hi"}, {"type": "tool_use", "name": "look", "input": {"a": 1}}],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 7,
            "output_tokens": 5,
            "service_tier": "standard",
        },
    }
    raw = json.dumps(message).encode()
    for facts in (read_answer(raw), search_answer(raw)):
        assert facts.usage == Usage(10, 5, 15, cached_tokens=7)
        assert (facts.model, facts.response_id) == ("claude-sonnet-5", "msg_1")
        assert facts.finish_reasons == ("tool_use",)
    assert read_answer(raw).service_tier == "default"
    assert Delivered.of_answer("messages", raw).text() == "Hilook"


# --- requests --------------------------------------------------------------------------------------------


def test_its_paths() -> None:
    target = parse_target("POST", "/anthropic/v1/messages?beta=true")
    assert (target.operation, target.api, target.deployment) == (MESSAGES, "anthropic", None)
    assert target.deployment_in_body
    assert not target.knows_stream_options
    assert target.with_prefix("/apim", "sonnet") == "/apim/anthropic/v1/messages?beta=true"
    assert (
        parse_target("POST", "/anthropic/v1/messages/count_tokens").operation.name == "messages.count_tokens"
    )
    assert parse_target("GET", "/anthropic/v1/models/claude-sonnet-5").ids == ("claude-sonnet-5",)


RESOURCES = Path(anthropic.__file__).parent / "resources"
SENT = re.compile(r'self\._(post|get|delete)\(\s*"(/v1/[^"?]*)')


def test_each_request_of_the_sdk_for_foundry_is_in_the_table() -> None:
    """It has messages, and messages of the beta; batches and models it takes out."""
    files = [RESOURCES / "messages" / "messages.py", RESOURCES / "beta" / "messages" / "messages.py"]
    sent = {(method.upper(), path) for file in files for method, path in SENT.findall(file.read_text())}
    assert {path for _, path in sent} == {"/v1/messages", "/v1/messages/count_tokens"}
    for method, path in sent:
        for form in (f"/anthropic{path}", path):
            assert parse_target(method, form).operation in CLAUDES


def test_the_paths_of_a_client_whose_base_address_is_the_gateways() -> None:
    target = parse_target("POST", "/v1/messages?beta=true")
    assert (target.operation, target.api) == (MESSAGES, "anthropic")
    assert target.with_prefix("/apim") == "/apim/anthropic/v1/messages?beta=true"
    counted = parse_target("POST", "/v1/messages/count_tokens")
    assert counted.operation.name == "messages.count_tokens"


def test_what_is_not_in_its_table_may_be_new() -> None:
    for method, path in (
        ("POST", "files"),
        ("GET", "files/file_011CNha8iCJcU1wXNR6q4V8w"),
        ("GET", "skills"),
    ):
        target = parse_target(method, f"/anthropic/v1/{path}")
        assert target.operation is CLAUDES_UNKNOWN[method]
        assert target.operation.dialect is ANTHROPIC
    assert target.references == ()


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v1/messages/", 404, "/anthropic/v1/messages"),
        ("POST", "//v1/messages", 404, "/anthropic/v1/messages"),
        ("GET", "/v1/messages", 405, "Use POST"),
        ("POST", "/anthropic/messages", 404, "/anthropic/v1/messages"),
        ("POST", "/anthropic/v1/v1/messages", 404, "/anthropic/v1/messages"),
        ("POST", "/anthropic/v1/message", 404, "Below /anthropic/v1/"),
        ("POST", "/anthropic/v1/messages/", 404, "/anthropic/v1/messages"),
        ("POST", "/anthropic//v1/messages", 404, "/anthropic/v1/messages"),
        ("POST", "/Anthropic/v1/messages", 404, "/anthropic/v1/messages"),
        ("POST", "/anthropic/v1/Messages", 404, "/anthropic/v1/messages"),
        ("POST", "/anthropic/v1/%6dessages", 404, ""),
        ("POST", "/anthropic/v1/messages/../models", 404, ""),
        ("POST", "/anthropic/v1", 404, "Below /anthropic/v1/"),
        ("POST", "/anthropic", 404, "Below /anthropic/v1/"),
        ("GET", "/anthropic/v1/messages", 405, "Use POST"),
        ("OPTIONS", "/anthropic/v1/new", 405, "Use GET"),
    ],
)
def test_slips(method: str, path: str, status: int, says: str) -> None:
    with pytest.raises(GatewayError) as caught:
        parse_target(method, path)
    assert caught.value.status == status
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/anthropic/v1/messages", ANTHROPIC),
        ("/anthropic", ANTHROPIC),
        ("//Anthropic/x", ANTHROPIC),
        ("/v1/messages?beta=true", ANTHROPIC),
        ("/openai/v1/chat/completions", OPENAI),
        ("/openai/threads/thread_1/messages", OPENAI),
        ("/openai/messages", OPENAI),
        ("/messages", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/", OPENAI),
        ("*", OPENAI),
    ],
)
def test_the_dialect_of_a_path(path: str, dialect: object) -> None:
    assert dialect_of(path) is dialect


def test_its_key_is_taken_where_its_sdks_put_it() -> None:
    keys = ANTHROPIC.key_headers

    def shown(headers: dict[str, str]) -> str | None:
        found = client_credential(headers, "", keys)
        return found.value if found is not None else None

    assert shown({"x-api-key": "a"}) == "a"
    assert shown({"api-key": "a"}) == "a"
    assert shown({"authorization": "Bearer a"}) == "a"
    assert shown({"x-api-key": "a", "authorization": "Bearer b"}) == "a"
    assert client_credential({"x-api-key": "a"}) is None


def test_a_backend_gets_a_key_where_keys_belong_and_a_token_as_it_is() -> None:
    key, token = (b"api-key", b"k"), (b"authorization", b"Bearer t")
    assert credential_fields(key, ANTHROPIC.key_headers) == [(b"x-api-key", b"k"), (b"api-key", b"k")]
    assert credential_fields(key, OPENAI.key_headers) == [key]
    assert credential_fields(token, ANTHROPIC.key_headers) == [token]


def test_of_a_large_body_the_end_user_is_kept() -> None:
    body = {"model": "m", "metadata": {"user_id": "u"}, "tools": [{"a": [1]}], "thinking": {"a": {"b": 1}}}
    target = parse_target("POST", "/anthropic/v1/messages")
    found = parse_body(target, None, json.dumps(body).encode(), short=True)
    assert found.parsed == {"model": "m", "metadata": {"user_id": "u"}}
    assert not found.whole


def test_operations_and_dialects_are_the_same_objects_in_another_process() -> None:
    for each in (*CLAUDES, *CLAUDES_UNKNOWN.values()):
        assert pickle.loads(pickle.dumps(each)) is each
    for dialect in DIALECTS.values():
        assert pickle.loads(pickle.dumps(dialect)) is dialect
