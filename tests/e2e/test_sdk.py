"""The real SDKs through a real gateway: both clients, both hosts, http and https, streaming or not."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.certificates import Certificates
from tests.e2e.conftest import Kind, Sdk
from tests.e2e.processes import Gateway, Host, Simulator, request
from tests.e2e.settings import API_VERSION, CLIENT_KEY, POOLS, SPEC
from tests.e2e.shared import Pair, running

HELLO: Any = [{"role": "user", "content": "Say hello to the gateway."}]


LIMITED_KEY = "limited-key-77aa01"
INSTRUCT = "gpt-35-turbo-instruct"
DEPLOYMENTS = ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small", INSTRUCT]


@contextmanager
def running_pair(host: Host, folder: Path, home: Path, tls: Certificates | None) -> Iterator[Pair]:
    """A gateway and its simulator, both speaking plain HTTP or both TLS with a private authority."""
    old = {"model": INSTRUCT, "first_token_seconds": 0, "tokens_per_second": 0}
    spec = {**SPEC, "old": {"region": "East US", "deployments": {"instruct": old}}}
    with running(
        host,
        folder,
        home,
        spec=spec,
        tls=tls,
        simulator_tls=tls,
        pools={**POOLS, "old": {INSTRUCT: ["instruct"]}},
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Limited", "key": LIMITED_KEY, "deployments_allowed": "gpt-4o-mini"},
        ],
        breaks={"default_seconds": 0.05, "floor_seconds": 0.05, "ceiling_seconds": 0.05},
    ) as pair:
        yield pair


@pytest.fixture(scope="module")
def http_pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    with running_pair(host, tmp_path_factory.mktemp(f"sdk-http-{host}"), home, None) as pair:
        yield pair


@pytest.fixture(scope="module")
def https_pair(
    host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path, tls: Certificates
) -> Iterator[Pair]:
    with running_pair(host, tmp_path_factory.mktemp(f"sdk-https-{host}"), home, tls) as pair:
        yield pair


@pytest.fixture
def gateway(http_pair: Pair) -> Gateway:
    return http_pair.gateway


@pytest.fixture
def simulator(http_pair: Pair) -> Simulator:
    http_pair.gateway.wait_until(lambda: all_available(http_pair.gateway), "out of its breaks")
    http_pair.simulator.reset()
    return http_pair.simulator


def direct(simulator: Simulator, endpoint: str = "sweden") -> Any:
    """The simulator's endpoint as a server for an SDK."""

    class Server:
        url = simulator.urls[endpoint].rstrip("/")
        ca = simulator.ca

    return Server


@pytest.mark.each_host
def test_every_call_of_every_client(http_pair: Pair, sdk: Sdk) -> None:
    every_call_of_every_client(http_pair, sdk)


@pytest.mark.each_host
def test_every_call_of_every_client_over_https(https_pair: Pair, sdk: Sdk) -> None:
    every_call_of_every_client(https_pair, sdk)


def every_call_of_every_client(pair: Pair, sdk: Sdk) -> None:
    gateway, simulator = pair
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
        assert names == DEPLOYMENTS


async def calls_everything_asynchronously(client: openai.AsyncOpenAI, expected: Any) -> None:
    async with client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.choices[0].message.content == expected.choices[0].message.content

        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert content_of([chunk async for chunk in stream]) == expected.choices[0].message.content

        embedded = await client.embeddings.create(model="text-embedding-3-small", input="one")
        assert len(embedded.data[0].embedding) == 1536

        if not isinstance(client, openai.AsyncAzureOpenAI):
            response = await client.responses.create(model="gpt-4o", input="Say hello.")
            async with client.responses.stream(model="gpt-4o", input="Say hello.") as events:
                assert [event.type async for event in events][-1] == "response.completed"
                assert (await events.get_final_response()).output_text == response.output_text
            assert [model.id async for model in client.models.list()] == DEPLOYMENTS


def content_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


KINDS: tuple[Kind, ...] = ("azure", "v1")


def test_completions(gateway: Gateway, sdk: Sdk) -> None:
    """The old operation, which has models of its own."""
    for kind in KINDS:
        ask: Any = {"model": INSTRUCT, "prompt": "Once upon a time"}
        completions = sdk(gateway, kind).completions
        whole = completions.create(**ask)
        chunks = list(completions.create(**ask, stream=True))
        assert whole.choices[0].text
        assert "".join(c.text for chunk in chunks for c in chunk.choices) == whole.choices[0].text
        assert all(chunk.usage is None for chunk in chunks)

        async def again(kind: Kind = kind, ask: Any = ask) -> str:
            async with sdk.asynchronous(gateway, kind) as client:
                stream = await client.completions.create(**ask, stream=True)
                return "".join([c.text async for chunk in stream for c in chunk.choices])

        assert asyncio.run(again()) == whole.choices[0].text


def test_a_certificate_of_ones_own_is_the_only_way_in(https_pair: Pair) -> None:
    gateway, _ = https_pair
    plain = request(f"http://127.0.0.1:{gateway.port}/openai/v1/models", headers={"api-key": CLIENT_KEY})
    assert plain.status == 400
    assert "https" in plain.json()["error"]["message"]


EXCEPTIONS: list[tuple[type[openai.APIStatusError], str, list[str]]] = [
    # What the backends do, and what that is in the SDK.
    (openai.RateLimitError, "all_backends_out", ["429", "429", "429"]),
    (openai.BadRequestError, "content_filter", ["content_filter"]),
    (openai.InternalServerError, "", ["500", "500"]),
]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_arrive_as_the_sdks_exceptions(
    gateway: Gateway, simulator: Simulator, sdk: Sdk, stream: bool
) -> None:
    def fails(expected: type[openai.APIStatusError], kind: Kind, key: str = CLIENT_KEY, **more: Any) -> Any:
        ask = {"model": "gpt-4o", "messages": HELLO, "stream": stream, **more}
        with pytest.raises(expected) as caught:
            sdk(gateway, kind, key=key).chat.completions.create(**ask)

        async def again() -> None:
            async with sdk.asynchronous(gateway, kind, key=key) as client:
                await client.chat.completions.create(**ask)

        if not simulator.control("GET", "faults"):
            with pytest.raises(expected):
                asyncio.run(again())
        assert key not in str(caught.value)
        return caught.value

    for kind in KINDS:
        assert fails(openai.AuthenticationError, kind, key="not-a-known-key").code == "401"
        assert fails(openai.NotFoundError, kind, model="gpt-9").code == "DeploymentNotFound"
        refused = fails(openai.PermissionDeniedError, kind, key=LIMITED_KEY)
        assert refused.code == "DeploymentNotAllowed"
        assert "gpt-4o-mini" in refused.message
        for expected, code, faults in EXCEPTIONS:
            gateway.wait_until(lambda: all_available(gateway), "out of its breaks")
            for fault in faults:
                simulator.fault(fault, times=1)
            simulator.fault(faults[-1], times=-1)
            error = fails(expected, kind)
            assert error.code == code or not code
            if expected is openai.RateLimitError:
                assert 1 <= int(error.response.headers["retry-after-ms"]) <= 50
            simulator.clear_faults()
        gateway.wait_until(lambda: all_available(gateway), "out of its breaks")


def all_available(gateway: Gateway) -> bool:
    return all(b["available"] for b in gateway.request("GET", "/health/ready").json()["backends"])


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
def test_a_stream_that_is_cut_raises(gateway: Gateway, simulator: Simulator, sdk: Sdk, how: str) -> None:
    for kind in KINDS:
        simulator.fault("cut", deployment="gpt-4o-ptu", how=how)
        stream = sdk(gateway, kind).chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "upstream_disconnected"
    simulator.fault("cut", deployment="gpt-4o-ptu", how=how)
    with pytest.raises(openai.APIError):
        list(sdk(gateway).responses.create(model="gpt-4o", input="Say hello.", stream=True))


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
        assert names == DEPLOYMENTS

    @pytest.mark.parametrize("kind", ["azure", "openai"])
    def test_over_https(self, https_pair: Pair, node: list[str], kind: str) -> None:
        chat = {"model": "gpt-4o", "messages": HELLO}
        assert self.call(node, https_pair.gateway, kind, "chat", stream=True, body=chat)["text"]
        assert self.call(node, https_pair.gateway, kind, "chat", body=chat)["text"]

    @pytest.mark.parametrize("kind", ["azure", "openai"])
    def test_errors(self, gateway: Gateway, simulator: Simulator, node: list[str], kind: str) -> None:
        unknown = {"model": "gpt-9", "messages": HELLO}
        error = self.call(node, gateway, kind, "chat", body=unknown, fails=True)["error"]
        assert (error["status"], error["code"]) == (404, "DeploymentNotFound")
        simulator.fault("cut", deployment="gpt-4o-ptu")
        known = {"model": "gpt-4o", "messages": HELLO}
        error = self.call(node, gateway, kind, "chat", body=known, stream=True, fails=True)["error"]
        assert error["code"] == "upstream_disconnected"

    def call(
        self,
        node: list[str],
        gateway: Gateway,
        kind: str,
        call: str,
        *,
        body: dict[str, Any] | None = None,
        stream: bool = False,
        fails: bool = False,
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
            timeout=200,
            check=False,
            env={"PATH": "/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": str(gateway.ca or "")},
        )
        assert done.returncode == fails, done.stdout + done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]
