"""The ``gateway.*`` commands in a running mitmweb, asked for through its REST API as its command bar does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.inspector import Inspector, inspecting
from tests.e2e.processes import Simulator
from tests.e2e.settings import CLIENT_KEY

V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say:Hello"}]}
THRIFTY_KEY = "thrifty-key-5512"

SECTIONS: dict[str, Any] = {
    "breaks": {"ceiling_seconds": 0.3},
    "prices": {"gpt-4o": {"input": 2.5, "output": 10}},
    "clients": [
        {"name": "Tester", "key": CLIENT_KEY},
        {"name": "Thrifty", "key": THRIFTY_KEY, "max_requests_per_minute": 1},
    ],
}


class Stage:
    """One mitmweb for all tests of this module; each test looks at the flows that it has made."""

    def __init__(self, inspector: Inspector, simulator: Simulator) -> None:
        self.web, self.simulator = inspector, simulator

    def ask(self, path: str = V1, key: str = CLIENT_KEY, **body: Any) -> str:
        """Make a call; gives its id, or "" where there was none."""
        answer = self.web.request("POST", path, key=key, json_body={**QUESTION, **body})
        return answer.headers.get("x-gateway-call", "")

    def command(self, name: str, *arguments: str) -> Any:
        answer = self.web.api("POST", f"/commands/{name}", {"arguments": arguments}).json()
        assert "error" not in answer, answer
        return answer["value"]

    def refused(self, name: str, *arguments: str) -> str:
        answer = self.web.api("POST", f"/commands/{name}", {"arguments": arguments}).json()
        return str(answer["error"])

    def replay(self, call: str, where: str) -> dict[str, Any]:
        """Send a call to another place; gives the new flow."""
        known = {flow["id"] for flow in self.web.flows()}
        self.command("gateway.replay", final(call), where)
        return self.web.await_flow(lambda flow: flow["id"] not in known and flow["comment"], "the replay")

    def compare(self, *words: str) -> str:
        """Compare; gives the text of the result."""
        known = {flow["id"] for flow in self.web.flows()}
        self.command("gateway.compare", *words)
        shown = self.web.await_flow(
            lambda flow: flow["id"] not in known and flow["marked"] == "⚖" and flow.get("response"),
            "the comparison",
        )
        return self.web.content(shown["id"], "response").decode()

    def available(self) -> bool:
        backends = self.web.request("GET", "/health/ready").json()["backends"]
        return all(backend["available"] for backend in backends)


def final(call: str) -> str:
    """Write the filter for a call's own flow: its failed attempts have the same id."""
    return f"~meta {call} & !~meta gateway_reason"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Stage]:
    with inspecting(tmp_path_factory.mktemp("commands"), home, **SECTIONS) as (inspector, simulator):
        yield Stage(inspector, simulator)


@pytest.fixture
def stage(running: Stage) -> Stage:
    running.simulator.reset()
    running.web.wait_until(running.available, "out of its breaks")
    return running


def test_explain_tells_every_decision(stage: Stage) -> None:
    stage.simulator.fault("429", deployment="gpt-4o-ptu")
    call = stage.ask()
    told = [line.partition(" ms  ")[2] for line in stage.command("gateway.explain", final(call))]
    assert told[0].startswith("Tester asks for gpt-4o: chat.completions, not streaming")
    assert told[2].startswith("attempt 1 failed: 429 RateLimitReached; break of ")
    assert "gpt-4o-paygo@sweden answers 200" in told
    assert told[-1] == "end: ok, 2 attempts, status 200"
    attempt = f"~meta {call} & ~meta gateway_reason"
    assert [line.partition(" ms  ")[2] for line in stage.command("gateway.explain", attempt)] == told


def test_the_story_is_a_view_of_the_answer(stage: Stage) -> None:
    call = stage.ask()
    flow = stage.web.await_flow(lambda f: "Tester: " in f["comment"], "the call")
    shown = stage.web.api("GET", f"/flows/{flow['id']}/response/content/Story.json").json()
    assert "end: ok, 1 attempt, status 200" in json.dumps(shown)
    assert call


def test_what_is_refused_before_it_is_a_call_says_why(stage: Stage) -> None:
    stage.ask(key="nobody-s")
    flow = stage.web.await_flow(lambda f: "401 unknown key" in f["comment"], "the refusal")
    assert flow["marked"] == "🚫"
    stage.ask("/nowhere")
    assert stage.web.await_flow(lambda f: "404 unknown path" in f["comment"], "the refusal")


def test_a_quota_is_told_in_the_flow_list(stage: Stage) -> None:
    stage.ask(key=THRIFTY_KEY)
    stage.ask(key=THRIFTY_KEY)
    flow = stage.web.await_flow(lambda f: "429 quota_exceeded · Thrifty" in f["comment"], "the 429")
    assert flow["marked"] == "🚦"


@pytest.mark.parametrize("path", [V1, CLASSIC])
def test_a_python_snippet_makes_the_call_again(stage: Stage, path: str) -> None:
    call = stage.ask(path, stream=True)
    code = stage.command("gateway.snippet", "python", final(call))
    assert CLIENT_KEY not in code
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"AOAI_GATEWAY_KEY": CLIENT_KEY, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert done.stdout == "Hello\n"
    sent, again = (json.loads(stage.web.content(f["id"], "request")) for f in stage.web.flows()[-2:])
    sent.setdefault("model", "gpt-4o")
    assert again == sent


def test_snippets_in_other_languages_and_by_mitmproxys_own_export(stage: Stage) -> None:
    call = stage.ask()
    for language, theirs in (("python", "openai-python"), ("js", "openai-js"), ("curl", "gateway-curl")):
        code = stage.command("gateway.snippet", language, final(call))
        assert "AOAI_GATEWAY_KEY" in code
        assert stage.command("export", theirs, final(call)) == code
    assert stage.refused("gateway.snippet", "cobol", final(call)) == "Invalid choice."


def test_a_call_is_sent_to_another_deployment(stage: Stage) -> None:
    flow = stage.replay(stage.ask(), "gpt-4o-mini")
    assert "Tester: gpt-4o-mini → gpt-4o-mini@sweden" in flow["comment"]
    assert [seen["deployment"] for seen in stage.simulator.requests()] == ["gpt-4o-ptu", "gpt-4o-mini"]


def test_a_call_is_sent_to_one_backend_and_no_other(stage: Stage) -> None:
    call = stage.ask(CLASSIC)
    flow = stage.replay(call, "gpt-4o-france@france")
    assert "Tester: gpt-4o → gpt-4o-france@france" in flow["comment"]
    stage.simulator.fault("429", deployment="gpt-4o-france")
    flow = stage.replay(call, "gpt-4o-france@france")
    assert flow["response"]["status_code"] == 429
    asked = [seen["deployment"] for seen in stage.simulator.requests()]
    assert asked == ["gpt-4o-ptu", "gpt-4o-france", "gpt-4o-france"]


def test_a_client_cannot_choose_its_backend(stage: Stage) -> None:
    stage.web.request(
        "POST",
        V1,
        key=CLIENT_KEY,
        json_body=QUESTION,
        headers={"gateway_only_backend": "gpt-4o-france@france", "x-gateway-only-backend": "gpt-4o-france"},
    )
    assert [seen["deployment"] for seen in stage.simulator.requests()] == ["gpt-4o-ptu"]


def test_a_failed_attempt_is_replayed_as_its_call(stage: Stage) -> None:
    stage.simulator.fault("429", deployment="gpt-4o-ptu")
    call = stage.ask()
    (attempt,) = [f for f in stage.web.flows() if f["marked"] == "❌" and f["comment"].count("ptu")][-1:]
    stage.web.wait_until(stage.available, "out of its breaks")
    stage.command("replay.client", f"~meta {call} & ~meta gateway_reason")
    flow = stage.web.await_flow(
        lambda f: f["id"] == attempt["id"] and f["comment"] and f["marked"] == "", "the replay"
    )
    assert flow["response"]["status_code"] == 200
    assert "Tester: gpt-4o → gpt-4o-ptu@sweden" in flow["comment"]


def test_the_same_prompt_to_several_places(stage: Stage) -> None:
    text = stage.compare(final(stage.ask(stream=True)), "gpt-4o", "gpt-4o-france@france", "gpt-4o-mini")
    head, *rest = text.splitlines()
    assert head.split() == ["gpt-4o", "│", "gpt-4o-france@france", "│", "gpt-4o-mini"]
    rows = {line[:12].strip(): line[14:].split("│") for line in rest if "│" in line}
    assert [cell.strip() for cell in rows["status"]] == ["200"] * 3
    assert rows["first token"][0].strip().endswith(" ms")
    assert float(rows["cost"][0]) > 0
    assert rows["cost"][2].strip() == "–"
    assert "All answers are the same:\n\nHello" in text


def test_edits_of_a_prompt_are_compared_where_they_went(stage: Stage) -> None:
    for said in ("say:One", "say:Two"):
        stage.ask(messages=[{"role": "user", "content": said}], user="edits")
    text = stage.compare("~bq edits & !~replay")
    assert next(line for line in text.splitlines() if line.startswith("asked")).split() == [
        "asked", "say:One", "│", "say:Two",
    ]  # fmt: skip
    assert "One " in text
    assert "│ Two" in text


def test_what_cannot_be_compared(stage: Stage) -> None:
    call = stage.ask()
    assert "two deployments" in stage.refused("gateway.compare", final(call), "gpt-4o")
    assert "There is no 'gpt-5'" in stage.refused("gateway.compare", final(call), "gpt-4o", "gpt-5")


def test_backends_clients_and_lines(stage: Stage) -> None:
    stage.ask()
    backends = stage.command("gateway.backends")
    assert [line.split()[0] for line in backends[1:3]] == ["gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden"]
    assert any("Thrifty" in line and "requests/min" in line for line in stage.command("gateway.clients"))
    assert any(line.startswith("gpt-4o ") and "none" in line for line in stage.command("gateway.line"))


def test_a_break_by_hand(stage: Stage) -> None:
    said = stage.command("gateway.break.open", "sweden", "60", "just", "trying")
    assert said == "sweden: a break of 60 s was opened (just trying)"
    try:
        call = stage.ask()
        told = "\n".join(stage.command("gateway.explain", final(call)))
        assert "passes over gpt-4o-ptu@sweden: by hand: just trying" in told
    finally:
        stage.command("gateway.break.close", "sweden")
    assert [seen["endpoint"] for seen in stage.simulator.requests()] == ["france"]


def test_a_switch_by_hand(stage: Stage) -> None:
    assert stage.command("gateway.switch", "off", "client", "Tester") == "client Tester was switched off"
    assert stage.ask() == ""
    assert stage.command("gateway.switch", "on", "client", "Tester") == "client Tester was switched on again"
    assert stage.ask()
    assert "there is no client 'Testr'" in stage.refused("gateway.switch", "off", "client", "Testr")


def test_every_command_is_documented(stage: Stage) -> None:
    commands = stage.web.api("GET", "/commands").json()
    ours = {name: told for name, told in commands.items() if name.startswith("gateway.")}
    assert len(ours) > 10
    assert all(told["help"] for told in ours.values())


def test_comments_are_shown_in_the_flow_list(stage: Stage) -> None:
    options = stage.web.api("GET", "/options").json()
    assert options["web_columns"]["value"][-1] == "comment"
