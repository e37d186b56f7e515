"""`aoai-gateway rerun`: a session captured by the lean host, made again before the same backends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader, FlowWriter

from aoai_gateway.app import cli
from aoai_gateway.rerun import command
from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration
from tests.e2e.test_capture import Capturing
from tests.ports import free_port

QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


class Scene(NamedTuple):
    """A gateway whose session of five calls was captured, and its simulator."""

    gateway: Gateway
    simulator: Simulator
    path: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("regression")
    simulator = Simulator(SPEC, folder)
    gateway = None
    try:
        path = folder / "all.flows"
        config = configuration(
            simulator.urls,
            simulator.keys,
            breaks={"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
        )
        gateway = Capturing("serve", config, folder, home=home, capture=path)
        sdk = Sdk()
        client = sdk(gateway)
        simulator.fault("429", deployment="gpt-4o-ptu")
        client.chat.completions.create(**QUESTION)
        list(client.chat.completions.create(**QUESTION, stream=True))
        list(sdk(gateway, "azure").chat.completions.create(**QUESTION, stream=True, user="classic"))
        client.embeddings.create(model="text-embedding-3-small", input=["Hello", "you"])
        list(client.responses.create(model="gpt-4o", input="Hello", stream=True))
        sdk.close()
        gateway.wait_until(lambda: len(flows_of(path)) == 6, "done with its capture")
        captured = folder / "calls.flows"
        captured.write_bytes(path.read_bytes())
        yield Scene(gateway, simulator, captured)
        assert gateway.stop() == 0
    finally:
        if gateway is not None:
            gateway.kill()
        simulator.kill()


@pytest.fixture(autouse=True)
def at_rest(scene: Scene) -> None:
    scene.simulator.reset()


def flows_of(path: Path) -> list[HTTPFlow]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]


type Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(command.KEY_VARIABLE, CLIENT_KEY)

    def call(*words: str | Path, path: Path = scene.path) -> tuple[int, str]:
        arguments = ["--to", scene.gateway.url, *map(str, words)]
        code = cli.main(["rerun", str(path), *arguments])
        out, err = capsys.readouterr()
        assert CLIENT_KEY not in out + err
        return code, out + err

    return call


def test_nothing_is_different_when_nothing_is(scene: Scene, run: Run) -> None:
    code, told = run("--strict")
    assert code == 0, told
    assert "calls.flows: 5 calls → http://127.0.0.1:" in told
    assert "left out: 1 failed attempts" in told
    assert "5 calls: 5 same, 0 different, 0 failed" in told
    assert len(scene.simulator.requests()) == 5
    assert told.count(", stream; ") == 3
    # Each stream's tokens are known, though the gateway keeps them from clients that did not ask.
    assert "–" not in told


def test_a_document_for_machines_has_all_of_it(run: Run) -> None:
    code, told = run("--json", "--concurrency", "1")
    document = json.loads(told)
    assert code == 0
    assert document["totals"]["same"] == 5
    assert document["left_out"] == {"failed attempts": 1}
    calls = document["calls"]
    assert [call["operation"] for call in calls] == [
        "chat.completions", "chat.completions", "chat.completions", "embeddings", "responses"
    ]  # fmt: skip
    assert [call["streaming"] for call in calls] == [False, True, True, False, True]
    for call in calls:
        assert call["client"] == "Tester"
        assert call["then"]["text"] == call["now"]["text"] != ""
        assert call["then"]["output_tokens"] == call["now"]["output_tokens"]
        assert (call["now"]["first_token_ms"] is not None) == call["streaming"]
        assert call["now"]["total_ms"] >= (call["now"]["first_token_ms"] or 0)


def test_another_deployment_gets_all_calls(scene: Scene, run: Run) -> None:
    code, told = run("--deployment", "gpt-4o-mini", "--filter", "~bq messages")
    assert code == 0
    assert {request["deployment"] for request in scene.simulator.requests()} == {"gpt-4o-mini"}
    assert "3 calls: 3 same" in told


def test_what_is_different_is_shown(scene: Scene, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.flows"
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for flow in flows_of(scene.path):
            if flow.response is not None and not flow.response.headers["content-type"].startswith(
                "text/event"
            ):
                body = flow.response.json()
                if "choices" in body:
                    choice = body["choices"][0]
                    choice["finish_reason"] = "length"
                    choice["message"]["content"] = "Quite another answer, " + choice["message"]["content"]
                    flow.response.text = json.dumps(body)
            writer.add(flow)
    code, told = run(path=path)
    assert code == 0
    assert "   1 different (" in told
    assert "     finish reason: length → stop\n" in told
    assert "     [-Quite another answer,-] " in told
    assert "5 calls: 4 same, 1 different, 0 failed" in told
    assert run("--strict", path=path)[0] == 1


def test_what_fails_is_told(scene: Scene, run: Run) -> None:
    scene.simulator.fault("content_filter", deployment="gpt-4o-ptu")
    scene.simulator.fault("cut", deployment="gpt-4o-ptu")
    code, told = run("--concurrency", "1", "--strict", "--limit", "3")
    assert code == 1
    assert "   1 FAILED; chat.completions gpt-4o; " in told
    assert "     400 content_filter: " in told
    assert "   2 FAILED; chat.completions gpt-4o, stream; " in told
    assert "upstream_disconnected" in told
    assert "3 calls: 1 same, 0 different, 2 failed" in told


def test_a_429_is_waited_for_as_an_sdk_does(scene: Scene, run: Run) -> None:
    # One for each backend: the gateway itself answers 429 then, with a time after which it fits.
    scene.simulator.fault("429", times=3, retry_after_seconds=1)
    code, told = run("--limit", "1", "--strict")
    assert code == 0, told
    assert "1 call: 1 same" in told


def test_a_wrong_key_fails_every_call(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "no-such-key-13")
    code, told = run("--key-env", "OTHER_KEY", "--strict")
    assert code == 1
    assert "5 calls: 0 same, 0 different, 5 failed" in told
    assert "no-such-key-13" not in told


def test_without_a_key_it_is_said_where_it_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.KEY_VARIABLE)
    code, told = run()
    assert code == 2
    assert "set AOAI_GATEWAY_KEY" in told


def test_where_no_gateway_is_it_is_said(run: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, told = run("--to", url)
    assert code == 1
    assert f"no gateway at {url}" in told


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--to", "127.0.0.1:8080"], "is no address"),
        (["--to", "http://127.0.0.1:8080/openai/v1"], "without path"),
        (["--to", "http://name:password@127.0.0.1:8080"], "without path"),
        (["--limit", "0"], "is no number from 1 on"),
        (["--deployment", "a/b"], "is no name of a deployment"),
        (["--filter", "~nonsense"], "is no flow filter"),
        (["--key", "secret"], "unrecognized arguments"),
    ],
)
def test_a_wrong_word_is_said(run: Run, words: list[str], why: str) -> None:
    code, told = run(*words)
    assert code == 2
    assert why in told


def test_a_file_without_calls_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.flows").touch()
    code, told = run(path=tmp_path / "empty.flows")
    assert code == 1
    assert "has no calls to make again" in told
