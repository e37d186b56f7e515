"""The real SDKs through a real gateway: both clients, both hosts, http and https, streaming or not."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.certificates import Certificates
from tests.e2e.conftest import Kind, Sdk
from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import API_VERSION, CLIENT_KEY

HELLO: Any = [{"role": "user", "content": "Say hello to the gateway."}]


@pytest.fixture(params=["http", "https"])
def either_gateway(
    request: pytest.FixtureRequest,
    start_simulator: Callable[..., Simulator],
    start_gateway: Callable[..., Gateway],
    tls: Certificates,
) -> tuple[Gateway, Simulator]:
    """A gateway and its simulator, both speaking plain HTTP or both TLS with a private authority."""
    using = tls if request.param == "https" else None
    simulator = start_simulator(tls=using)
    return start_gateway(simulator, tls=using), simulator


def direct(simulator: Simulator, endpoint: str = "sweden") -> Any:
    """The simulator's endpoint as a server for an SDK."""

    class Server:
        url = simulator.urls[endpoint].rstrip("/")
        ca = simulator.ca

    return Server


def test_every_call_of_every_client(either_gateway: tuple[Gateway, Simulator], sdk: Sdk) -> None:
    """One test for all: what costs time here is starting the processes."""
    gateway, simulator = either_gateway
    expected = sdk(direct(simulator), key=simulator.keys["sweden"]).chat.completions.create(
        model="gpt-4o-ptu", messages=HELLO
    )
    simulator.reset()
    kinds: tuple[Kind, ...] = ("azure", "v1")
    for kind in kinds:
        calls_everything(sdk(gateway, kind), expected)
        asyncio.run(calls_everything_asynchronously(sdk.asynchronous(gateway, kind), expected))

    seen = simulator.requests()
    assert {entry["status"] for entry in seen} == {200}
    assert {entry["outcome"] for entry in seen} == {"completed"}
    assert {entry["endpoint"] for entry in seen} == {"sweden"}
    assert {entry["deployment"] for entry in seen} == {"gpt-4o-ptu", "embed"}
    for entry in seen:
        assert CLIENT_KEY not in json.dumps(entry)
        assert entry["headers"]["api-key"] == simulator.keys["sweden"]


def calls_everything(client: openai.OpenAI, expected: Any) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.usage == expected.usage

    chunks = list(
        client.chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert content_of(chunks) == expected.choices[0].message.content
    assert chunks[-1].usage == expected.usage

    unasked = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert content_of(unasked) == expected.choices[0].message.content
    assert all(chunk.usage is None for chunk in unasked)

    embedded = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(item.embedding) for item in embedded.data] == [1536, 1536]

    if not isinstance(client, openai.AzureOpenAI):
        response = client.responses.create(model="gpt-4o", input="Say hello.")
        with client.responses.stream(model="gpt-4o", input="Say hello.") as stream:
            types = [event.type for event in stream]
            assert stream.get_final_response().output_text == response.output_text
        assert types[0] == "response.created"
        assert types[-1] == "response.completed"
        names = [model.id for model in client.models.list()]
        assert names == ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]


async def calls_everything_asynchronously(client: openai.AsyncOpenAI, expected: Any) -> None:
    async with client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.choices[0].message.content == expected.choices[0].message.content

        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert content_of([chunk async for chunk in stream]) == expected.choices[0].message.content

        embedded = await client.embeddings.create(model="text-embedding-3-small", input="one")
        assert len(embedded.data[0].embedding) == 1536


def content_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("kind", ["azure", "v1"])
def test_errors_arrive_as_the_sdks_exceptions(gateway: Gateway, sdk: Sdk, kind: Kind) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown_key:
        sdk(gateway, kind, key="not-a-key").chat.completions.create(model="gpt-4o", messages=HELLO)
    assert "not-a-key" not in str(unknown_key.value)

    with pytest.raises(openai.NotFoundError) as unknown_model:
        sdk(gateway, kind).chat.completions.create(model="gpt-9", messages=HELLO)
    assert unknown_model.value.code == "DeploymentNotFound"


@pytest.mark.node
class TestJavaScript:
    """The same through the openai package from npm."""

    @pytest.mark.parametrize("kind", ["azure", "openai"])
    def test_calls(self, gateway: Gateway, node: list[str], kind: str) -> None:
        chat = {"model": "gpt-4o", "messages": HELLO}
        whole = self.call(node, gateway, kind, "chat", body=chat)
        streamed = self.call(
            node, gateway, kind, "chat", stream=True, body={**chat, "stream_options": {"include_usage": True}}
        )
        assert whole["text"]
        assert streamed["text"] == whole["text"]
        assert streamed["usage"] == whole["usage"]
        assert streamed["chunks"] > 3
        embedded = {"model": "text-embedding-3-small", "input": ["one", "two"]}
        assert self.call(node, gateway, kind, "embeddings", body=embedded)["data"] == [1536, 1536]

    def test_responses_and_models(self, gateway: Gateway, node: list[str]) -> None:
        body = {"model": "gpt-4o", "input": "Say hello."}
        whole = self.call(node, gateway, "openai", "responses", body=body)
        streamed = self.call(node, gateway, "openai", "responses", stream=True, body=body)
        assert streamed["text"] == whole["text"]
        assert streamed["usage"] == whole["usage"]
        names = self.call(node, gateway, "openai", "models")["data"]
        assert names == ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]

    def test_over_https(
        self,
        simulator: Simulator,
        start_gateway: Callable[..., Gateway],
        node: list[str],
        tls: Certificates,
    ) -> None:
        gateway = start_gateway(simulator, tls=tls)
        assert self.call(
            node, gateway, "openai", "chat", stream=True, body={"model": "gpt-4o", "messages": HELLO}
        )["text"]

    def call(
        self,
        node: list[str],
        gateway: Gateway,
        kind: str,
        call: str,
        *,
        body: dict[str, Any] | None = None,
        stream: bool = False,
    ) -> dict[str, Any]:
        ask = {
            "kind": kind,
            "baseURL": gateway.url if kind == "azure" else f"{gateway.url}/openai/v1/",
            "apiKey": CLIENT_KEY,
            "apiVersion": API_VERSION,
            "call": call,
            "stream": stream,
            "body": body,
        }
        done = subprocess.run(
            [*node, json.dumps(ask)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": str(gateway.ca or "")},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]
