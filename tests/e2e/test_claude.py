"""Claude: Anthropic's real SDK through a real gateway, plain and as the client for Foundry."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from pydantic import BaseModel

from tests.e2e.json_lines import caught_up, of_calls
from tests.e2e.processes import Gateway, Host, Simulator, request
from tests.e2e.raw import exchange
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import Pair, running

MODEL = "claude-sonnet-5"
LIMITED_KEY = "limited-key-77aa01"
POOR_KEY, RICH_KEY = "poor-key-45bb02", "rich-key-91cc03"
_INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
SPEC: dict[str, Any] = {
    "sweden": {
        "region": "Sweden Central",
        "deployments": {"sonnet": {"model": MODEL, **_INSTANT}, "gpt": {"model": "gpt-4o", **_INSTANT}},
    },
    "france": {"region": "France Central", "deployments": {"sonnet-fr": {"model": MODEL, **_INSTANT}}},
}
POOLS = {"sweden": {MODEL: ["sonnet"], "gpt-4o": ["gpt"]}, "france": {MODEL: ["sonnet-fr"]}}
HELLO: Any = [{"role": "user", "content": "Say hello to the gateway."}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "messages": HELLO}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    inhabitants: int


FAULTS = ("429", "529", "500", "in-200-refusal", "reset")

type Make = Callable[..., Any]


@pytest.fixture(scope="module")
def pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("claude")
    with running(
        host,
        folder,
        home,
        spec=SPEC,
        pools=POOLS,
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Limited", "key": LIMITED_KEY, "deployments_allowed": "gpt-4o"},
            {"name": "Poor", "key": POOR_KEY, "max_tokens_per_minute": 250},
            {"name": "Rich", "key": RICH_KEY, "max_tokens_per_minute": 10_000_000},
            *({"name": f"Replayed {name}", "key": f"replayed-{name}-00"} for name in FAULTS),
        ],
        breaks={"default_seconds": 0.05, "floor_seconds": 0.05, "ceiling_seconds": 0.05},
        prices={MODEL: {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75}},
        usage_log=str(folder / "usage.jsonl"),
    ) as pair:
        yield pair


@pytest.fixture
def gateway(pair: Pair) -> Gateway:
    return pair.gateway


@pytest.fixture
def simulator(pair: Pair) -> Simulator:
    pair.gateway.wait_until(lambda: all_available(pair.gateway), "out of its breaks")
    pair.simulator.reset()
    pair.simulator.clear_faults()
    return pair.simulator


def all_available(gateway: Gateway) -> bool:
    return all(b["available"] for b in gateway.request("GET", "/health/ready").json()["backends"])


@pytest.fixture
def records(gateway: Gateway) -> Callable[[int], list[dict[str, Any]]]:
    log = gateway.config_path.parent / "usage.jsonl"
    before = caught_up(log, gateway, CLIENT_KEY)

    def newest(count: int) -> list[dict[str, Any]]:
        gateway.wait_until(lambda: len(of_calls(log)) >= before + count, "written down")
        return of_calls(log)[before:]

    return newest


def plain(gateway: Gateway, key: str = CLIENT_KEY, **more: Any) -> anthropic.Anthropic:
    url = f"http://127.0.0.1:{gateway.port}/anthropic"
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, **more)


def foundry(gateway: Gateway, key: str = CLIENT_KEY, **more: Any) -> anthropic.AnthropicFoundry:
    url = f"http://127.0.0.1:{gateway.port}/anthropic/"
    return anthropic.AnthropicFoundry(base_url=url, api_key=key, max_retries=0, **more)


def with_x_api_key(gateway: Gateway, key: str = CLIENT_KEY, **more: Any) -> anthropic.Anthropic:
    """As older versions of the SDK show their key."""
    client = httpx2.Client(event_hooks={"request": [lambda sent: _only_x_api_key(sent, key)]})
    return plain(gateway, key, http_client=client, **more)


def _only_x_api_key(sent: httpx2.Request, key: str) -> None:
    sent.headers.pop("authorization", None)
    sent.headers["x-api-key"] = key


def at_the_root(gateway: Gateway, key: str = CLIENT_KEY) -> anthropic.Anthropic:
    """As programs make it that know Anthropic's own address, and get another host for it."""
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=key, max_retries=0)


CLIENTS = pytest.mark.parametrize("client", [plain, foundry, with_x_api_key, at_the_root])


@CLIENTS
def test_a_message(gateway: Gateway, simulator: Simulator, client: Make) -> None:
    with client(gateway) as sdk:
        headers = {"anthropic-beta": "some-beta", "anthropic-version": "2023-06-01"}
        raw = sdk.messages.with_raw_response.create(**ASK, extra_headers=headers)
    message = raw.parse()
    assert message.type == "message"
    assert message.stop_reason == "end_turn"
    assert message.content[0].text
    assert message._request_id.startswith("req_")
    assert raw.headers["x-gateway-backend"] == "sonnet@sweden"
    (seen,) = simulator.requests()
    assert (seen["endpoint"], seen["deployment"], seen["operation"]) == ("sweden", "sonnet", "messages")
    assert seen["target"] == "/anthropic/v1/messages"
    assert seen["headers"]["anthropic-version"] == "2023-06-01"
    assert seen["headers"]["anthropic-beta"] == "some-beta"
    assert seen["headers"]["x-api-key"] == seen["headers"]["api-key"] == simulator.keys["sweden"]
    assert CLIENT_KEY not in json.dumps(seen)


@CLIENTS
def test_a_structured_output(gateway: Gateway, simulator: Simulator, client: Make) -> None:
    with client(gateway) as sdk:
        city = sdk.messages.parse(**ASK, output_format=City).parsed_output
        with sdk.messages.stream(**ASK, output_format=City) as stream:
            streamed = stream.get_final_message().parsed_output
    assert isinstance(city, City)
    assert streamed == city


@CLIENTS
def test_a_stream(gateway: Gateway, simulator: Simulator, client: Make) -> None:
    with client(gateway) as sdk:
        whole = sdk.messages.create(**ASK)
        with sdk.messages.stream(**ASK) as stream:
            said = "".join(stream.text_stream)
            message = stream.get_final_message()
    assert said == whole.content[0].text == message.content[0].text
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.stop_reason == "end_turn"


def test_asynchronously(gateway: Gateway, simulator: Simulator) -> None:
    async def ask() -> tuple[str, str]:
        url = f"http://127.0.0.1:{gateway.port}/anthropic"
        async with anthropic.AsyncAnthropic(base_url=url, api_key=CLIENT_KEY, max_retries=0) as sdk:
            whole = await sdk.messages.create(**ASK)
            async with sdk.messages.stream(**ASK) as stream:
                return whole.content[0].text, "".join([text async for text in stream.text_stream])

    whole, streamed = asyncio.run(ask())
    assert whole == streamed


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    ask = {"model": MODEL, "max_tokens": 300, "tools": [WEATHER]}
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]

    def said() -> Any:
        with plain(gateway) as sdk:
            if not stream:
                return sdk.messages.create(**ask, messages=messages)
            with sdk.messages.stream(**ask, messages=messages) as events:
                return events.get_final_message()

    first = said()
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.name, list(call.input)) == ("get_weather", ["city"])
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = said()
    assert second.stop_reason == "end_turn"
    assert second.content[0].type == "text"


def test_thinking_comes_through(gateway: Gateway, simulator: Simulator, records: Any) -> None:
    with plain(gateway) as sdk, sdk.messages.stream(**ASK, thinking={"type": "adaptive"}) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].signature
    (record,) = records(1)
    assert record["reasoning_tokens"] == 32


def test_tokens_are_counted_by_the_backend(gateway: Gateway, simulator: Simulator, records: Any) -> None:
    for client in (plain, foundry):
        with client(gateway) as sdk:
            assert sdk.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 0
    assert {record["operation"] for record in records(2)} == {"messages.count_tokens"}
    assert {record["input_tokens"] for record in records(2)} == {None}


def test_beta_messages(gateway: Gateway, simulator: Simulator) -> None:
    with foundry(gateway) as sdk:
        message = sdk.beta.messages.create(**ASK, betas=["context-1m-2025-08-07"])
    assert message.content[0].text
    (seen,) = simulator.requests()
    assert seen["headers"]["anthropic-beta"] == "context-1m-2025-08-07"


def test_models_are_the_clients_deployments(gateway: Gateway) -> None:
    with plain(gateway, LIMITED_KEY) as sdk:
        assert [model.id for model in sdk.models.list()] == ["gpt-4o"]
        assert sdk.models.retrieve("gpt-4o").display_name == "gpt-4o"
        with pytest.raises(anthropic.NotFoundError):
            sdk.models.retrieve(MODEL)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_is_replayed(gateway: Gateway, simulator: Simulator, fault: str, stream: bool) -> None:
    simulator.fault(fault, endpoint="sweden")
    # A client of its own: what fails for one client alone is in no break that others could wait for.
    with plain(gateway, f"replayed-{fault}-00") as sdk:
        answer = sdk.messages.with_raw_response.create(**ASK, stream=stream)
        assert answer.headers["x-gateway-backend"] == "sonnet-fr@france"
        assert answer.headers["x-gateway-attempts"] == "2"
        answer.read() if not stream else list(answer.parse())


@CLIENTS
def test_errors_arrive_as_the_sdks_exceptions(gateway: Gateway, simulator: Simulator, client: Make) -> None:
    def fails(expected: type[anthropic.APIStatusError], key: str = CLIENT_KEY, **more: Any) -> Any:
        for stream in (False, True):
            with client(gateway, key) as sdk, pytest.raises(expected) as caught:
                sdk.messages.create(**{**ASK, **more}, stream=stream)
            body = caught.value.body
            assert isinstance(body, dict)
            assert body["type"] == "error"
        return body

    assert fails(anthropic.AuthenticationError, "wrong-key")["error"]["type"] == "authentication_error"
    unknown = fails(anthropic.NotFoundError, model="claude-9")
    assert (unknown["error"]["type"], unknown["error"]["details"]["error_code"]) == (
        "not_found_error",
        "DeploymentNotFound",
    )
    assert unknown["request_id"]
    denied = fails(anthropic.PermissionDeniedError, LIMITED_KEY)
    assert denied["error"]["type"] == "permission_error"
    invalid = fails(anthropic.BadRequestError, messages="no list")
    assert invalid["error"]["type"] == "invalid_request_error"


def test_a_quota_that_is_used_up(gateway: Gateway, simulator: Simulator) -> None:
    with plain(gateway, POOR_KEY) as sdk:
        sdk.messages.create(**ASK)
        with pytest.raises(anthropic.RateLimitError) as caught:
            sdk.messages.create(**ASK)
        body = caught.value.body
        assert isinstance(body, dict)
        assert (body["error"]["type"], body["error"]["details"]["error_code"]) == (
            "rate_limit_error",
            "quota_exceeded",
        )
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_all_backends_out(gateway: Gateway, simulator: Simulator) -> None:
    simulator.fault("429", times=-1)
    with plain(gateway) as sdk, pytest.raises(anthropic.RateLimitError) as caught:
        sdk.messages.create(**ASK)
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["error"]["type"], body["error"]["details"]["error_code"]) == (
        "rate_limit_error",
        "all_backends_out",
    )
    assert "sonnet@sweden" in body["error"]["message"]
    assert body["request_id"] == caught.value.response.headers["x-gateway-call"]


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
def test_a_stream_that_is_cut_raises(gateway: Gateway, simulator: Simulator, records: Any, how: str) -> None:
    with plain(gateway) as sdk:
        prompt = sdk.messages.create(**ASK).usage.input_tokens
    records(1)
    simulator.fault("cut", endpoint="sweden", events=8, how=how)
    with plain(gateway) as sdk, pytest.raises(anthropic.APIError) as caught:
        list(sdk.messages.create(**ASK, stream=True))
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["error"]["type"], body["error"]["details"]["error_code"]) == (
        "api_error",
        "upstream_disconnected",
    )
    record = records(2)[-1]
    assert record["outcome"] == "truncated"
    # The prompt's usage came with its beginning, the answer's would have come with its end.
    assert record["input_tokens"] == prompt
    assert record["output_tokens"] == record["delivered_tokens"] > 0


def test_the_prompt_cache_is_told_apart_and_priced(
    gateway: Gateway, simulator: Simulator, records: Any
) -> None:
    long = {"type": "text", "text": "A rule. " * 500, "cache_control": {"type": "ephemeral"}}
    with plain(gateway) as sdk:
        first = sdk.messages.create(**ASK, system=[long]).usage
        with sdk.messages.stream(**ASK, system=[long]) as stream:
            second = stream.get_final_message().usage
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens == 1000
    wrote, read = records(2)
    for record, usage in ((wrote, first), (read, second)):
        assert record["input_tokens"] == usage.input_tokens + 1000
        assert record["output_tokens"] == usage.output_tokens
    assert (wrote["cache_write_tokens"], wrote["cached_tokens"]) == (1000, 0)
    assert (read["cache_write_tokens"], read["cached_tokens"]) == (0, 1000)
    rest = 3 * first.input_tokens + 15 * first.output_tokens
    assert wrote["cost"] == pytest.approx((rest + 3.75 * 1000) / 1e6)
    assert read["cost"] == pytest.approx((rest + 0.3 * 1000) / 1e6)


def test_a_wrong_path_says_the_right_one(gateway: Gateway) -> None:
    for path in (
        "/v1/messages/",
        "/anthropic/messages",
        "/anthropic/v1/v1/messages",
        "/anthropic/v1/message",
    ):
        answer = request(
            f"http://127.0.0.1:{gateway.port}{path}",
            method="POST",
            headers={"x-api-key": CLIENT_KEY},
            body=b"{}",
        )
        assert answer.status == 404, path
        assert answer.json()["error"]["type"] == "not_found_error"
        assert "/anthropic/v1/" in answer.json()["error"]["message"]


# --- what bad input gets ---------------------------------------------------------------------------------


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode() + body


POST = ("POST /anthropic/v1/messages HTTP/1.1", "Host: gw", f"x-api-key: {CLIENT_KEY}")


def bomb() -> bytes:
    body = gzip.compress(b'{"model": "claude-sonnet-5", "x": "' + b"x" * 110_000_000 + b'"}')
    return raw(*POST, "content-encoding: gzip", f"content-length: {len(body)}", body=body)


BAD_INPUT: dict[str, tuple[bytes | Callable[[], bytes], int, str]] = {
    "a gzip bomb": (bomb, 413, "request_too_large"),
    "no gzip": (
        raw(*POST, "content-encoding: gzip", "content-length: 2", body=b"{}"),
        400,
        "invalid_request_error",
    ),
    "a body of 2 GB": (raw(*POST, "content-length: 2147483648"), 413, "request_too_large"),
    "a broken chunk": (
        raw(*POST, "transfer-encoding: chunked", body=b"nonsense\r\n"),
        400,
        "invalid_request_error",
    ),
    "a websocket": (
        raw(*POST, "connection: upgrade", "upgrade: websocket", "content-length: 0"),
        400,
        "invalid_request_error",
    ),
    "another host": (
        raw("POST http://elsewhere/anthropic/v1/messages HTTP/1.1", *POST[1:], "content-length: 0"),
        400,
        "invalid_request_error",
    ),
    "a form": (
        raw(*POST, "content-type: multipart/form-data; boundary=x", "content-length: 2", body=b"{}"),
        400,
        "invalid_request_error",
    ),
    "another method": (raw(POST[0].replace("POST", "PUT"), *POST[1:], "content-length: 0"), 405, ""),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input(gateway: Gateway, simulator: Simulator, what: str) -> None:
    data, status, kind = BAD_INPUT[what]
    reply = exchange(gateway, data if isinstance(data, bytes) else data())
    said = json.loads(reply.body)
    assert (reply.status, said["type"]) == (status, "error")
    assert said["error"]["type"] == kind or not kind
    assert CLIENT_KEY not in reply.body.decode()
    assert simulator.requests() == []


def test_a_prompt_of_megabytes(gateway: Gateway, simulator: Simulator, records: Any) -> None:
    """Read in another process, where operations and dialects have to be what they are here."""
    long = "word " * 400_000
    with plain(gateway, RICH_KEY) as sdk, pytest.raises(anthropic.BadRequestError) as caught:
        sdk.messages.create(**ASK, system=long, metadata={"user_id": "ann"})
    assert "maximum context length" in str(caught.value)
    (record,) = records(1)
    assert record["prompt_tokens_counted"] > 300_000
