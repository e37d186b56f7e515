"""Realtime sessions by the real SDK and a plain WebSocket client, through a real gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import websockets
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader
from websockets.asyncio.client import ClientConnection

from tests.e2e import json_lines
from tests.e2e.processes import START_SECONDS, Gateway, Host, Process, eventually, request
from tests.e2e.settings import CLIENT_KEY, POOLS, SPEC, configuration
from tests.e2e.shared import Pair, running

pytestmark = pytest.mark.each_host

INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
LIMITED_KEY = "limited-key-5c1d9e2f70"
PREVIEW = "2025-04-01-preview"
SECOND_OF_AUDIO = base64.b64encode(bytes(48_000)).decode()
SESSIONS = 100


@pytest.fixture(scope="module")
def pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(f"realtime-{host}")
    voice = {
        "voice-real": {"model": "gpt-realtime", **INSTANT},
        "slow-real": {"model": "gpt-realtime", "first_token_seconds": 1, "tokens_per_second": 100},
    }
    spec = {name: {**each, "deployments": {**each["deployments"], **voice}} for name, each in SPEC.items()}
    pools = {name: {**pool, "gpt-realtime": ["voice-real"]} for name, pool in POOLS.items()}
    with running(
        host,
        folder,
        home,
        spec=spec,
        pools=pools,
        breaks={"default_seconds": 0.05, "floor_seconds": 0.05, "ceiling_seconds": 0.05},
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Limited", "key": LIMITED_KEY, "max_tokens_per_minute": 700},
        ],
        usage_sinks={"jsonl": {"path": str(folder / "usage.jsonl")}},
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def no_faults(pair: Pair) -> None:
    pair.simulator.clear_faults()


def records(pair: Pair) -> list[dict[str, Any]]:
    """The records of sessions that were accepted."""
    file = pair.gateway.config_path.parent / "usage.jsonl"
    return [
        each for each in json_lines.read(file) if each["operation"] == "realtime" and each["status"] == 101
    ]


def records_so_far(pair: Pair) -> int:
    """How many there are, with those of sessions that have just ended."""
    json_lines.caught_up(pair.gateway.config_path.parent / "usage.jsonl", pair.gateway, CLIENT_KEY)
    return len(records(pair))


def next_record(pair: Pair, before: int) -> dict[str, Any]:
    eventually(lambda: len(records(pair)) > before, "the record of the session")
    return records(pair)[-1]


@asynccontextmanager
async def plain(pair: Pair, query: str = "model=gpt-realtime", **how: Any) -> AsyncIterator[ClientConnection]:
    """A session of a client that speaks no more than WebSocket."""
    how.setdefault("additional_headers", {"api-key": CLIENT_KEY})
    url = f"ws://127.0.0.1:{pair.gateway.port}/openai/v1/realtime?{query}"
    async with websockets.connect(url, **how) as connection:
        yield connection


async def say(connection: ClientConnection, kind: str, **members: Any) -> None:
    await connection.send(json.dumps({"type": kind, **members}))


async def until(connection: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """All events until one of a kind."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(START_SECONDS):
        while not events or events[-1]["type"] != kind:
            events.append(json.loads(await connection.recv()))
    return events


async def ask(connection: ClientConnection, text: str, **response: Any) -> list[dict[str, Any]]:
    """Say a text, and give the events of its response."""
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await say(connection, "conversation.item.create", item=item)
    await say(connection, "response.create", response={"output_modalities": ["text"], **response})
    return await until(connection, "response.done")


def client_of(pair: Pair, key: str = CLIENT_KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{pair.gateway.url}/openai/v1",
        websocket_base_url=f"{pair.gateway.url}/openai/v1".replace("http", "ws", 1),
        api_key=key,
        max_retries=0,
    )


def azure_of(pair: Pair) -> openai.AsyncAzureOpenAI:
    return openai.AsyncAzureOpenAI(
        azure_endpoint=pair.gateway.url,
        websocket_base_url=f"{pair.gateway.url}/openai".replace("http", "ws", 1),
        api_key=CLIENT_KEY,
        api_version=PREVIEW,
        max_retries=0,
    )


async def _text_and_audio(pair: Pair, kind: str) -> None:
    client: Any = client_of(pair) if kind == "v1" else azure_of(pair)
    modalities = "output_modalities" if kind == "v1" else "modalities"
    heard, said, usage = b"", "", None
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.send({"type": "session.update", "session": {modalities: ["audio"]}})
        await connection.input_audio_buffer.append(audio=SECOND_OF_AUDIO)
        await connection.input_audio_buffer.commit()
        await connection.send({"type": "response.create"})
        async for event in connection:
            if event.type == "session.created":
                assert event.session.model == "gpt-realtime"
            elif event.type in ("response.output_audio.delta", "response.audio.delta"):
                heard += base64.b64decode(event.delta)
            elif event.type in ("response.output_audio_transcript.delta", "response.audio_transcript.delta"):
                said += event.delta
            elif event.type == "response.done":
                usage = event.response.usage
                break
    assert said
    assert usage is not None
    assert usage.input_token_details.audio_tokens == 10
    assert usage.output_token_details.audio_tokens == len(heard) // 4_800


@pytest.mark.parametrize("kind", ["v1", "azure"])
def test_text_and_audio_by_the_sdk(pair: Pair, kind: str) -> None:
    before = records_so_far(pair)
    asyncio.run(_text_and_audio(pair, kind))
    record = next_record(pair, before)
    assert record["api"] == ("v1" if kind == "v1" else "classic")
    assert (record["deployment"], record["standin"]) == ("gpt-realtime", "voice-real")
    assert record["input_audio_tokens"] == 10
    assert record["output_audio_tokens"] > 0
    assert (record["outcome"], record["responses"], record["close_code"]) == ("ok", 1, 1000)


def test_keys_where_browsers_put_them(pair: Pair) -> None:
    async def run() -> None:
        for query, how in (
            (f"model=gpt-realtime&api-key={CLIENT_KEY}", {}),
            (
                "model=gpt-realtime",
                {"subprotocols": ["realtime", f"openai-insecure-api-key.{CLIENT_KEY}"]},
            ),
        ):
            async with plain(pair, query, additional_headers={}, **how) as connection:
                assert connection.subprotocol == ("realtime" if how else None)
                events = await ask(connection, "say: all is well")
                assert "".join(e.get("delta", "") for e in events) == "all is well"

    asyncio.run(run())
    assert CLIENT_KEY not in pair.gateway.log
    sent = json.dumps(pair.simulator.requests())
    assert CLIENT_KEY not in sent
    if pair.gateway.dump_path is not None:
        assert CLIENT_KEY.encode() not in pair.gateway.dump_path.read_bytes()


def test_a_wrong_key_is_refused_before_the_upgrade(pair: Pair) -> None:
    async def run() -> int:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with plain(pair, additional_headers={"api-key": "wrong"}):
                pass
        return refused.value.response.status_code

    assert asyncio.run(run()) == 401


@pytest.mark.parametrize("fault", ["429", "503", "reset"])
def test_a_failed_handshake_is_replayed(pair: Pair, fault: str) -> None:
    async def run() -> dict[str, str]:
        async with plain(pair) as connection:
            assert connection.response is not None
            await until(connection, "session.created")
            return dict(connection.response.headers)

    before = records_so_far(pair)
    time.sleep(0.1)  # a break of the last test is over
    pair.simulator.fault(fault, endpoint="sweden")
    headers = asyncio.run(run())
    assert headers["x-gateway-attempts"] == "2"
    record = next_record(pair, before)
    assert [each["backend"] for each in record["attempts"]] == ["voice-real@sweden", "voice-real@france"]


def test_the_session_ends_with_the_budget(pair: Pair) -> None:
    async def run() -> tuple[list[dict[str, Any]], int | None]:
        async with plain(pair, additional_headers={"api-key": LIMITED_KEY}) as connection:
            await ask(connection, "hello " * 200, max_output_tokens=10)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await ask(connection, "again", max_output_tokens=400)
            return [], closed.value.rcvd.code if closed.value.rcvd else None

    before = records_so_far(pair)
    _, code = asyncio.run(run())
    assert code == 1008
    record = next_record(pair, before)
    assert (record["error"], record["closed_by"]) == ("quota_exceeded", "gateway")
    assert record["charged_tokens"] == record["input_tokens"] + record["output_tokens"]


def test_a_client_that_aborts(pair: Pair) -> None:
    async def run() -> None:
        async with plain(pair) as connection:
            await until(connection, "session.created")
            connection.transport.abort()

    before = records_so_far(pair)
    asyncio.run(run())
    assert next_record(pair, before)["outcome"] == "client_gone"
    eventually(lambda: pair.simulator.active()["in_flight"] == 0, "the backend's session is over")


def test_a_backend_that_aborts(pair: Pair) -> None:
    async def run() -> tuple[str, int]:
        async with plain(pair) as connection:
            await until(connection, "session.created")
            await asyncio.to_thread(pair.simulator.listening, False)
            try:
                events = await until(connection, "error")
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await connection.recv()
            finally:
                await asyncio.to_thread(pair.simulator.listening, True)
            assert closed.value.rcvd is not None
            return events[-1]["error"]["code"], closed.value.rcvd.code

    before = records_so_far(pair)
    assert asyncio.run(run()) == ("session_disconnected", 1011)
    assert next_record(pair, before)["outcome"] == "truncated"


def test_flows_show_the_session(pair: Pair) -> None:
    dump = pair.gateway.dump_path
    if dump is None:
        pytest.skip("this host shows no flows")

    async def run() -> None:
        async with plain(pair) as connection:
            await ask(connection, "say: seen")

    def shown() -> list[HTTPFlow]:
        with dump.open("rb") as file:
            flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
        return [
            f for f in flows if f.websocket and any(b"say: seen" in m.content for m in f.websocket.messages)
        ]

    asyncio.run(run())
    eventually(shown, "the flow of the session")
    (flow,) = shown()
    assert flow.websocket is not None
    assert flow.websocket.close_code == 1000
    kinds = [json.loads(message.content)["type"] for message in flow.websocket.messages]
    assert {"session.created", "conversation.item.create", "response.create", "response.done"} <= set(kinds)
    assert "1 responses, closed by the client" in flow.comment
    assert any("a session of 1 responses, 2 messages in" in line for line in flow.metadata["gateway_story"])


def test_secrets_for_browsers(pair: Pair) -> None:
    async def run() -> dict[str, Any]:
        client = client_of(pair)
        made = await client.realtime.client_secrets.create(
            session={"type": "realtime", "model": "gpt-realtime", "instructions": "be kind"}
        )
        assert made.value.startswith("ek_")
        shown = {"subprotocols": ["realtime", f"openai-insecure-api-key.{made.value}"]}
        async with plain(pair, "", additional_headers={}, **shown) as connection:
            (created,) = await until(connection, "session.created")
        call = await asyncio.to_thread(
            request,
            f"{pair.gateway.url}/openai/v1/realtime/calls",
            "POST",
            headers={"authorization": f"Bearer {made.value}", "content-type": "application/sdp"},
            body=b"v=0\r\n",
        )
        assert (call.status, call.body[:3]) == (201, b"v=0")
        ident = call.headers["location"].rpartition("/")[2]
        assert (await client.realtime.calls.hangup(ident)) is None
        assert made.value not in pair.gateway.log
        if pair.gateway.dump_path is not None:
            assert made.value.encode() not in pair.gateway.dump_path.read_bytes()
        return created

    # Which resource has made it, the gateway must know.
    for endpoint in ("sweden", "france"):
        if endpoint == "france":
            pair.simulator.fault("500", endpoint="sweden")
        created = asyncio.run(run())
        assert created["session"]["instructions"] == "be kind"


@pytest.mark.parametrize("fault", [None, "429", "503"])
def test_responses_over_a_websocket(pair: Pair, fault: str | None) -> None:
    async def run() -> list[str]:
        said = []
        async with client_of(pair).responses.connect() as connection:
            previous = None
            for text in ("one", "two"):
                await connection.response.create(
                    model="gpt-4o", input=f"say: {text}", previous_response_id=previous, max_output_tokens=20
                )
                async for event in connection:
                    if event.type == "response.completed":
                        assert event.response.model == "gpt-4o"
                        previous = event.response.id
                        said.append(event.response.output_text)
                        break
        return said

    time.sleep(0.1)  # a break of the last test is over
    if fault is not None:
        pair.simulator.fault(fault, endpoint="sweden")
    file = pair.gateway.config_path.parent / "usage.jsonl"
    assert asyncio.run(run()) == ["one", "two"]
    record = eventually(
        lambda: [each for each in json_lines.read(file) if each["operation"] == "responses.connect"],
        "the record",
    )[-1]
    assert (record["outcome"], record["responses"], record["status"]) == ("ok", 2, 101)
    assert record["output_tokens"] > 0


def test_a_refused_response_of_a_websocket(pair: Pair) -> None:
    async def run() -> tuple[str, int]:
        async with client_of(pair).responses.connect() as connection:
            await connection.response.create(model="unknown", input="hi")
            event = await connection.recv()
            assert event.type == "error"
            return event.error.code or "", event.status

    assert asyncio.run(run()) == ("DeploymentNotFound", 404)


def test_sessions_end_with_the_gateway(
    host: Host, tmp_path: Path, home: Path, pair: Pair, processes: list[Process]
) -> None:
    config = configuration(
        pair.simulator.urls, pair.simulator.keys, pools={"france": {"gpt-realtime": ["slow-real"]}}
    )
    gateway = Gateway(host, config, tmp_path, home=home)
    processes.append(gateway)

    async def close_of(connection: ClientConnection) -> tuple[str, int]:
        events = await until(connection, "error")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        return events[-1]["error"]["code"], closed.value.rcvd.code

    async def run() -> None:
        only = Pair(gateway, pair.simulator)
        async with plain(only) as idle, plain(only) as busy:
            await until(busy, "session.created")
            await say(busy, "response.create")
            await until(busy, "response.created")
            gateway.send()
            assert await close_of(idle) == ("session_moved", 1001)
            await until(busy, "response.done")
            assert await close_of(busy) == ("session_moved", 1001)

    asyncio.run(run())
    assert gateway.wait() == 0


def test_many_sessions_at_once(pair: Pair) -> None:
    async def one(number: int) -> int:
        async with plain(pair, open_timeout=START_SECONDS) as connection:
            taken = 0
            for turn in range(2):
                events = await ask(connection, f"say: session {number} turn {turn}")
                assert "".join(e.get("delta", "") for e in events) == f"session {number} turn {turn}"
                taken += events[-1]["response"]["usage"]["total_tokens"]
            return taken

    async def run() -> list[int]:
        return await asyncio.gather(*map(one, range(SESSIONS)))

    before = records_so_far(pair)
    begun = time.monotonic()
    taken = asyncio.run(run())
    print(f"{SESSIONS} sessions of two turns took {time.monotonic() - begun:.1f} s")
    eventually(lambda: len(records(pair)) == before + SESSIONS, "all records")
    written = records(pair)[before:]
    assert sum(each["input_tokens"] + each["output_tokens"] for each in written) == sum(taken)
    assert all(each["outcome"] == "ok" and each["responses"] == 2 for each in written)
