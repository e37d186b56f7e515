"""Calls to Claude as mitmweb and the workbench show them, edit them and send them again."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.inspector import PASSWORD, Inspector, inspecting
from tests.e2e.processes import Simulator
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.test_claude import MODEL, POOLS, SPEC, WEATHER
from tests.e2e.test_workbench import Workbench

PICTURE = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (800).to_bytes(4) + (600).to_bytes(4) + bytes(400)
).decode()
ASKED: Any = [
    {"type": "text", "text": "What is the weather in Oslo?"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[tuple[Inspector, Simulator]]:
    folder = tmp_path_factory.mktemp("claude-seen")
    prices = {MODEL: {"input": 3, "output": 15}}
    with inspecting(
        folder, home, spec=SPEC, pools=POOLS, prices=prices, workbench={"sets": "my-sets"}
    ) as pair:
        yield pair


@pytest.fixture(scope="module")
def called(running: tuple[Inspector, Simulator]) -> dict[str, Any]:
    """A streamed call that had to be sent twice, and calls a tool."""
    inspector, simulator = running
    simulator.fault("529", endpoint="sweden")
    url = f"http://127.0.0.1:{inspector.port}/anthropic"
    ask: Any = {
        "model": MODEL,
        "max_tokens": 200,
        "system": "Be brief.\nBe kind.",
        "tools": [WEATHER],
        "messages": [{"role": "user", "content": ASKED}],
    }
    with (
        anthropic.Anthropic(base_url=url, api_key=CLIENT_KEY, max_retries=0) as sdk,
        sdk.messages.stream(**ask) as stream,
    ):
        assert stream.get_final_message().stop_reason == "tool_use"
    return inspector.await_flow(lambda flow: (flow.get("response") or {}).get("status_code") == 200, "it")


def shown(inspector: Inspector, flow: dict[str, Any], part: str) -> dict[str, Any]:
    return inspector.api("GET", f"/flows/{flow['id']}/{part}/content/auto.json").json()  # type: ignore[no-any-return]


def test_the_views(running: tuple[Inspector, Simulator], called: dict[str, Any]) -> None:
    prompt, completion = (shown(running[0], called, part) for part in ("request", "response"))
    assert (prompt["view_name"], completion["view_name"]) == ("Prompt", "Completion")
    head = r"# Message to Claude with claude-sonnet-5 · streamed · 1 message · 1 tool · about [\d,]+ prompt t"
    assert re.match(head, prompt["text"])
    assert "800 × 600 pixels" in prompt["text"]
    assert "system: |-\n  Be brief.\n  Be kind.\n" in prompt["text"]
    assert completion["text"].startswith("tool_use · ")
    assert "from sonnet-fr@france, attempt 2" in completion["text"]
    assert "── tool call get_weather · toolu_" in completion["text"]


def test_the_failed_attempt(running: tuple[Inspector, Simulator], called: dict[str, Any]) -> None:
    failed = running[0].await_flow(lambda flow: (flow.get("response") or {}).get("status_code") == 529, "529")
    assert failed["request"]["path"] == "/anthropic/v1/messages"
    text = shown(running[0], failed, "response")["text"]
    assert text.startswith("529 · overloaded_error")
    assert CLIENT_KEY not in json.dumps(running[0].flows())


@pytest.fixture(scope="module")
def bench(running: tuple[Inspector, Simulator]) -> Workbench:
    inspector, simulator = running
    url = f"http://127.0.0.1:{inspector.web_port}"
    return Workbench(inspector, simulator, url, PASSWORD, inspector.config_path.parent)


def test_the_workbench_reads_it(bench: Workbench, called: dict[str, Any]) -> None:
    row = bench.row("What is the weather in Oslo?")
    call = bench.get(f"/calls/{row['id']}")
    assert call["operation"] == "messages"
    assert call["answer"]["choices"][0]["finish"] == "tool_use"
    assert call["answer"]["choices"][0]["parts"][0]["title"].startswith("tool call get_weather")
    assert len(call["messages"]) == 1
    story = json.dumps(call["story"], ensure_ascii=False)
    assert "messages, streaming" in story
    assert "529 overloaded_error" in story
    kept = call["request"]["body"]["messages"][0]["content"][1]["source"]["data"]
    part = bench.ask("GET", f"/api/calls/{row['id']}/part?pointer={kept['$kept']}")
    assert part.headers["content-type"] == "image/png"
    assert part.body == base64.b64decode(PICTURE)


def test_a_prompt_written_anew_runs_as_a_stream(bench: Workbench) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "say:Hello"}],
        "stream": True,
    }
    asked = {
        "operation": "messages",
        "body": body,
        "places": [MODEL],
        "client": "Tester",
        "by": "Ada",
        "count": 1,
    }
    run = bench.send("POST", "/runs", **asked)
    told = [entry for _, data in bench.events(f"/runs/{run['run']}", lambda *_: False) for entry in data]
    assert "".join(each["text"] for each in told) == "Hello"
    (entry,) = run["entries"]
    call = bench.get(f"/calls/{entry['id']}")
    assert call["answer"]["choices"][0]["parts"] == [{"kind": "text", "title": "", "text": "Hello"}]


def test_an_edit_of_a_call_runs_with_its_picture(bench: Workbench, called: dict[str, Any]) -> None:
    row = bench.row("What is the weather in Oslo?")
    body = bench.get(f"/calls/{row['id']}")["request"]["body"]
    del body["tools"]
    body["messages"][0]["content"][0]["text"] = "say:Sunny"
    (call,) = bench.run(call=row["id"], body=body, places=["sonnet-fr@france"])
    assert call["answer"]["choices"][0]["parts"][0]["text"] == "Sunny"
    sent = bench.ask("GET", f"/api/calls/{call['id']}/part?pointer=").body
    assert PICTURE.encode() in sent


def test_its_code_runs(bench: Workbench, called: dict[str, Any]) -> None:
    row = bench.row("What is the weather in Oslo?")
    code = bench.get(f"/calls/{row['id']}/code?language=python")["code"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"AOAI_GATEWAY_KEY": CLIENT_KEY},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "claude-sonnet-5" in code


def test_an_answer_is_a_case_that_is_checked(bench: Workbench) -> None:
    case = {"name": "greets", "operation": "messages", "body": {"max_tokens": 50, "messages": [
        {"role": "user", "content": "say:Hello {{name}}"}]}, "variables": {"name": "Ada"},
        "expect": [{"contains": "Hello Ada"}]}  # fmt: skip
    bench.gateway.config_path.parent.joinpath("claude.jsonl").write_text(json.dumps(case) + "\n")
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "aoai_gateway.app.cli", "rerun", "--set",
            bench.gateway.config_path.parent / "claude.jsonl", "--deployment", MODEL,
            "--to", bench.gateway.url, "--json",
        ],
        env={"AOAI_GATEWAY_KEY": CLIENT_KEY, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
