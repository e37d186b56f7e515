"""What the flow list shows: every attempt, linked to its call; and what replaying one of them does.

One gateway plays all scenes; what it saved is read when it has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from tests.e2e import json_lines
from tests.e2e.processes import CHECKOUT, SCRIPTS, Answer, Gateway, Process, Simulator
from tests.e2e.raw import Connection, post
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import running
from tests.ports import free_port

ADDONS = Path(__file__).parent / "addons"
V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
LIMITED_KEY = "limited-key-77aa01"

Fault = tuple[str, dict[str, Any]]


@dataclass
class Scene:
    """One call: what the client got, what the simulator saw of it, and its flows as they were saved."""

    answer: Answer
    seen: list[dict[str, Any]]
    call: str
    flows: list[HTTPFlow] = field(default_factory=list)

    @property
    def attempts(self) -> list[HTTPFlow]:
        return [flow for flow in self.flows if "gateway_attempt" in flow.metadata]

    @property
    def final(self) -> HTTPFlow:
        (flow,) = [flow for flow in self.flows if "gateway_attempt" not in flow.metadata]
        return flow

    @property
    def backends(self) -> list[str]:
        return [f"{seen['deployment']}@{seen['endpoint']}" for seen in self.seen]


@dataclass
class Story:
    """All scenes by name, and everything that the gateway wrote."""

    scenes: dict[str, Scene]
    flows: list[HTTPFlow]
    usage: dict[str, dict[str, Any]]
    """By call."""
    from_file: list[HTTPFlow]
    """The flows of a second process, which replayed those of the first."""
    from_file_seen: list[dict[str, Any]]


class Stage:
    """Plays calls one by one; before each of them, all breaks have ended."""

    def __init__(self, gateway: Gateway, simulator: Simulator, asked: Path) -> None:
        self.gateway = gateway
        self.simulator = simulator
        self._asked = asked
        self.scenes: dict[str, Scene] = {}

    def play(self, name: str, send: Callable[[Stage], Answer], *faults: Fault) -> None:
        self._prepare(faults)
        answer = send(self)
        self.scenes[name] = Scene(answer, self.simulator.requests(), answer.headers.get("x-gateway-call", ""))

    def replay(self, name: str, of: str, *faults: Fault, **edit: str) -> None:
        """Replay a scene's flow, with `edit` in its metadata."""
        self._prepare(faults)
        done = self.gateway.log.count("replayed to its end")
        draft = self._asked.with_suffix(".draft")
        draft.write_text(json.dumps({"call": self.scenes[of].call, "edit": edit}))
        draft.replace(self._asked)
        self.gateway.wait_until(
            lambda: self.gateway.log.count("replayed to its end") > done, "done with the replay"
        )
        self.scenes[name] = Scene(self.scenes[of].answer, self.simulator.requests(), "")

    def _prepare(self, faults: tuple[Fault, ...]) -> None:
        def all_available() -> bool:
            backends = self.gateway.request("GET", "/health/ready").json()["backends"]
            return all(backend["available"] for backend in backends)

        self.gateway.wait_until(all_available, "out of its breaks")
        self.simulator.reset()
        for kind, how in faults:
            self.simulator.fault(kind, **how)


def chat(path: str = V1, **more: Any) -> Callable[[Stage], Answer]:
    body = {**QUESTION, **more}
    return lambda stage: stage.gateway.request("POST", path, key=CLIENT_KEY, json_body=body)


def with_sweden_closed(stage: Stage) -> Answer:
    stage.simulator.listening(False, endpoint="sweden")
    return chat()(stage)


def with_an_unknown_key(stage: Stage) -> Answer:
    return stage.gateway.request("POST", V1, key="never-issued-5e", json_body=QUESTION)


def hang_up(stage: Stage) -> Answer:
    gateway, simulator = stage.gateway, stage.simulator
    with Connection(gateway) as connection:
        connection.send(post(V1, json.dumps({**QUESTION, "user": "hasty"}).encode(), key=CLIENT_KEY))
        gateway.wait_until(lambda: simulator.active()["in_flight"] == 1, "calling the backend")
    gateway.wait_until(lambda: simulator.active()["in_flight"] == 0, "rid of the call")
    return Answer(0, {}, b"")


def read(path: Path | None) -> list[HTTPFlow]:
    assert path is not None
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]


REPLAYS: list[tuple[str, list[Fault], dict[str, str]]] = [
    ("replay", [], {}),
    ("replay after a failure", [("503", {"deployment": "gpt-4o-ptu"})], {}),
    ("replay as another", [], {"gateway_client": "Limited"}),
    ("replay as nobody", [], {"gateway_client": "Somebody"}),
    ("replay without a token", [], {"gateway_client": "By token"}),
]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Story:
    folder = tmp_path_factory.mktemp("flows")
    asked, usage = folder / "asked.json", folder / "usage.jsonl"
    with running(
        "mitmdump",
        folder,
        home,
        addons=[ADDONS / "replay_on_demand.py"],
        options=["--set", "store_streamed_bodies=true"],
        env={"REPLAY_ASKED": str(asked)},
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Limited", "key": LIMITED_KEY, "deployments_allowed": "gpt-4o-mini"},
            {"name": "By token", "uses_entra_id_auth": True},
        ],
        breaks={"default_seconds": 0.2, "floor_seconds": 0.05, "ceiling_seconds": 0.3},
        usage_log=str(usage),
    ) as (gateway, simulator):
        ptu, paygo = {"deployment": "gpt-4o-ptu"}, {"deployment": "gpt-4o-paygo"}
        stage = Stage(gateway, simulator, asked)
        stage.play("plain", chat(temperature=0.5))
        stage.play("three", chat(CLASSIC), ("429", {**ptu, "retry_after_seconds": 20}), ("503", paygo))
        stage.play("dropped", chat(), ("reset", ptu))
        stage.play("stream", chat(stream=True), ("in-200-refusal", ptu))
        stage.play("all out", chat(), ("429", {"times": -1}))
        stage.play("refused", with_sweden_closed)
        stage.play("caller's fault", chat(), ("content_filter", ptu))
        stage.play("cut", chat(stream=True), ("cut", ptu))
        stage.play("unknown", with_an_unknown_key)
        stage.play("hang-up", hang_up, ("hang", ptu))
        for name, faults, edit in REPLAYS:
            stage.replay(name, "plain", *faults, **edit)
        simulator.reset()
        gateway.stop()
        flows = read(gateway.dump_path)
        from_file = replay_in_another_process(gateway, flows, folder, home)
        from_file_seen = simulator.requests()
    replayed = iter([flow for flow in flows if flow.is_replay])
    for name, scene in stage.scenes.items():
        if name.startswith("replay"):
            scene.call = str(next(replayed).metadata.get("gateway_call", ""))
        elif name == "hang-up":
            scene.call = next(
                str(f.metadata["gateway_call"]) for f in flows if b"hasty" in (f.request.raw_content or b"")
            )
        scene.flows = [f for f in flows if scene.call and f.metadata.get("gateway_call") == scene.call]
    records = [record for record in json_lines.read(usage) if record["call"] is not None]
    assert len(records) == len({record["call"] for record in records})
    return Story(
        stage.scenes, flows, {record["call"]: record for record in records}, from_file, from_file_seen
    )


def replay_in_another_process(
    gateway: Gateway, flows: list[HTTPFlow], folder: Path, home: Path
) -> list[HTTPFlow]:
    """Start mitmdump with ``-C``, which replays the flows of a file and ends."""
    saved = folder / "again.flows"
    process = Process(
        "again",
        [
            SCRIPTS / "mitmdump", "-s", CHECKOUT / "addons" / "gateway.py",
            "--set", f"gateway_config={gateway.config_path}",
            "--listen-host", "127.0.0.1", "--listen-port", str(free_port()),
            "-C", f"{gateway.dump_path}", "-w", saved,
        ],
        folder,
        env={"HOME": str(home)},
    )  # fmt: skip
    try:
        assert process.wait() == 0, process.log
    finally:
        process.kill()
    return [flow for flow in read(saved) if flow.is_replay]


THROTTLED = "429 RateLimitReached"


@pytest.mark.parametrize(
    ("name", "attempts", "final"),
    [
        ("plain", [], "gpt-4o-ptu@sweden"),
        (
            "three",
            [("gpt-4o-ptu@sweden", THROTTLED), ("gpt-4o-paygo@sweden", "503 ServiceUnavailable")],
            "gpt-4o-france@france",
        ),
        ("dropped", [("gpt-4o-ptu@sweden", "dropped the connection")], "gpt-4o-paygo@sweden"),
        (
            "stream",
            [("gpt-4o-ptu@sweden", "refused in its stream: rate_limit_exceeded")],
            "gpt-4o-paygo@sweden",
        ),
        (
            "all out",
            [
                ("gpt-4o-ptu@sweden", THROTTLED),
                ("gpt-4o-paygo@sweden", THROTTLED),
                ("gpt-4o-france@france", THROTTLED),
            ],
            None,
        ),
        ("refused", [("gpt-4o-ptu@sweden", "connection refused")], "gpt-4o-france@france"),
        ("caller's fault", [], "gpt-4o-ptu@sweden"),
        ("cut", [], "gpt-4o-ptu@sweden"),
        ("hang-up", [], "gpt-4o-ptu@sweden"),
        ("replay", [], "gpt-4o-ptu@sweden"),
        (
            "replay after a failure",
            [("gpt-4o-ptu@sweden", "503 ServiceUnavailable")],
            "gpt-4o-paygo@sweden",
        ),
    ],
)
def test_each_failed_attempt_is_a_flow_linked_to_its_call(
    story: Story, name: str, attempts: list[tuple[str, str]], final: str | None
) -> None:
    scene = story.scenes[name]
    assert [
        (flow.metadata["gateway_backend"], flow.metadata["gateway_reason"]) for flow in scene.attempts
    ] == attempts
    assert [flow.metadata["gateway_attempt"] for flow in scene.attempts] == [
        number + 1 for number in range(len(attempts))
    ]
    # They were saved before the call's own flow, whose metadata sums them up.
    assert scene.flows[-1] is scene.final
    expected = len(attempts) + (final is not None)
    assert scene.final.metadata["gateway_attempts"] == expected
    assert scene.final.metadata["gateway_backend"] == (final or attempts[-1][0])
    for flow in scene.flows:
        assert flow.metadata["gateway_client"] == "Tester"
        assert flow.metadata["gateway_deployment"] == "gpt-4o"
        # Plain values only, which a dump file and JSON hold alike.
        assert json.loads(json.dumps(flow.metadata)) == flow.metadata
    record = story.usage[scene.call]
    assert [attempt["backend"] for attempt in record["attempts"]][: len(attempts)] == [a[0] for a in attempts]
    assert len(record["attempts"]) == expected


def test_an_attempt_shows_what_was_sent_and_what_came(story: Story) -> None:
    first, second = story.scenes["three"].attempts
    for flow, standin, status in ((first, "gpt-4o-ptu", 429), (second, "gpt-4o-paygo", 503)):
        assert flow.request.path == CLASSIC.replace("gpt-4o", standin)
        assert json.loads(flow.request.get_content()) == QUESTION
        assert flow.response is not None
        assert flow.response.status_code == status
        assert json.loads(flow.response.get_content())["error"]
        assert flow.response.headers["x-ms-region"] == "Sweden Central"
    # On v1 the standin is in the body.
    (dropped,) = story.scenes["dropped"].attempts
    assert json.loads(dropped.request.get_content()) == {**QUESTION, "model": "gpt-4o-ptu"}
    assert dropped.response is None
    assert dropped.error is not None
    assert dropped.error.msg == "dropped the connection"


def test_what_was_sent_is_shown_to_the_byte(story: Story) -> None:
    for name in ("three", "all out", "replay after a failure"):
        scene = story.scenes[name]
        for flow, seen in zip(scene.attempts, scene.seen, strict=False):
            assert hashlib.sha256(flow.request.raw_content or b"").hexdigest() == seen["body_sha256"]
            assert flow.request.path == seen["target"]
            # Less the credential, which was there.
            assert set(seen["headers"]) - {name.lower() for name in flow.request.headers} == {"api-key"}


def test_the_calls_own_flow_shows_the_clients_request(story: Story) -> None:
    final = story.scenes["three"].final
    assert final.request.path == CLASSIC
    assert json.loads(final.request.get_content()) == QUESTION
    assert final.response is not None
    assert final.response.get_content() == story.scenes["three"].answer.body
    streamed = story.scenes["stream"].final
    assert streamed.response is not None
    assert streamed.response.get_content() == story.scenes["stream"].answer.body


@pytest.mark.parametrize(
    ("name", "comment", "marked"),
    [
        ("plain", r"Tester: gpt-4o → gpt-4o-ptu@sweden · \d+ tokens in, \d+ out", ""),
        (
            "three",
            r"replayed after gpt-4o-ptu@sweden 429 RateLimitReached, "
            r"gpt-4o-paygo@sweden 503 ServiceUnavailable · "
            r"Tester: gpt-4o → gpt-4o-france@france · \d+ tokens in, \d+ out",
            ":repeat:",
        ),
        (
            "stream",
            r"replayed after gpt-4o-ptu@sweden refused in its stream: rate_limit_exceeded · "
            r"Tester: gpt-4o → gpt-4o-paygo@sweden · "
            r"\d+ tokens in, \d+ out · first token after \d+ ms",
            ":repeat:",
        ),
        (
            "all out",
            r"429 all_backends_out · tried .* · Tester: gpt-4o → gpt-4o-france@france",
            ":no_entry:",
        ),
        ("caller's fault", r"400 · Tester: gpt-4o → gpt-4o-ptu@sweden", ":warning:"),
        (
            "cut",
            r"broken off · Tester: gpt-4o → gpt-4o-ptu@sweden · first token after \d+ ms",
            ":scissors:",
        ),
        ("hang-up", r"client hung up · Tester: gpt-4o → gpt-4o-ptu@sweden", ":wave:"),
        ("replay as another", r"403 DeploymentNotAllowed · Limited: gpt-4o", ":no_entry_sign:"),
    ],
)
def test_the_comment_tells_the_call(story: Story, name: str, comment: str, marked: str) -> None:
    final = story.scenes[name].final
    assert re.fullmatch(f"“[^”]+” · {comment}", final.comment), final.comment
    assert final.marked == marked


def test_the_comment_tells_the_attempt(story: Story) -> None:
    first, second = story.scenes["three"].attempts
    # Its hint was 20 s, and the longest break of this gateway is 0.3 s.
    route = "Tester: gpt-4o → gpt-4o-ptu@sweden"
    assert first.comment == f"attempt 1 failed: 429 RateLimitReached · {route} · break of 0.3 s"
    assert second.comment.startswith("attempt 2 failed: 503 ServiceUnavailable · Tester: gpt-4o → ")
    assert first.marked == second.marked == ":x:"


def test_a_refused_client_is_shown_without_a_call(story: Story) -> None:
    (flow,) = [f for f in story.flows if f.response and f.response.status_code == 401 and not f.is_replay]
    assert "gateway_call" not in flow.metadata
    assert "gateway_client" not in flow.metadata
    assert "never-issued" not in repr(flow.get_state())


# --- replays -----------------------------------------------------------------------------------------


def test_a_replay_goes_the_way_of_every_call(story: Story) -> None:
    for name in ("replay", "replay after a failure"):
        scene, original = story.scenes[name], story.scenes["plain"]
        assert scene.call != original.call
        for seen in scene.seen:
            assert seen["headers"]["api-key"] not in ("", CLIENT_KEY)
        assert scene.final.response is not None
        assert scene.final.response.status_code == 200
        record = story.usage[scene.call]
        assert record["client"] == "Tester"
        assert record["outcome"] == "ok"
        assert record["input_tokens"] == story.usage[original.call]["input_tokens"]
    assert story.scenes["replay"].backends == ["gpt-4o-ptu@sweden"]
    assert story.scenes["replay after a failure"].backends == ["gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden"]
    assert story.scenes["replay after a failure"].seen[0]["headers"]["api-key"]


def test_a_replay_is_judged_as_the_client_that_the_flow_names(story: Story) -> None:
    scene = story.scenes["replay as another"]
    assert scene.seen == []
    assert scene.final.response is not None
    assert scene.final.response.status_code == 403
    assert story.usage[scene.call]["client"] == "Limited"
    for name, status in (("replay as nobody", 401), ("replay without a token", 401)):
        assert story.scenes[name].seen == []
        assert story.scenes[name].call == ""
        assert status in [f.response.status_code for f in story.flows if f.is_replay and f.response]


def test_a_replay_says_nothing_of_the_earlier_run(story: Story) -> None:
    refused = story.scenes["replay as another"].final
    assert set(refused.metadata) == {
        "gateway_client", "gateway_call", "gateway_deployment", "gateway_attempts", "gateway_outcome",
        "gateway_error", "gateway_duration_ms", "gateway_story",
    }  # fmt: skip
    for flow in story.flows:
        if flow.is_replay and flow.metadata["gateway_client"] in ("Somebody", "By token"):
            assert set(flow.metadata) == {
                "gateway_client", "gateway_outcome", "gateway_error", "gateway_story"
            }  # fmt: skip
            assert flow.comment.startswith("401 ")


def test_flows_from_a_file_are_replayed_once_the_gateway_is_up(story: Story) -> None:
    statuses = [flow.response.status_code if flow.response else 0 for flow in story.from_file]
    assert len(statuses) > 10
    # Failed attempts are replayed as their calls, so no standin is asked for (404).
    assert set(statuses) == {200, 401, 403}
    for flow in story.from_file:
        assert flow.response is not None
        name = flow.metadata.get("gateway_client")
        if name == "Tester":
            # The flow of a failed attempt names a standin, and that is nothing that clients can ask for.
            asks_for_standin = flow.metadata["gateway_deployment"] != "gpt-4o"
            assert flow.response.status_code == (404 if asks_for_standin else 200)
        else:
            assert flow.response.status_code in (401, 403)
    assert len(story.from_file_seen) == statuses.count(200)
