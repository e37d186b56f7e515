"""A bug anywhere in the gateway: the client is told, nothing is forwarded, and the next call is fine.

Every function of the layers, of the engine and of the addon raises once, in a call that gets there.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.addons.break_on_demand import NAMES
from tests.e2e.processes import Gateway, Host, Simulator, eventually
from tests.e2e.raw import Connection, head, post
from tests.e2e.settings import CLIENT_KEY, SPEC
from tests.e2e.shared import running

ADDONS = Path(__file__).parent / "addons"
PATIENT_KEY = "key-of-one-who-waits-31"
V1 = "/openai/v1/chat/completions"
PROMPT = "the prompt, c0ffee"
SAYING = f"it failed on {CLIENT_KEY} and on {PROMPT}"
MODELS = head("GET /openai/v1/models HTTP/1.1", f"api-key: {CLIENT_KEY}", "Connection: close")


LONG = "say:" + "word " * 2_000


def question(*, key: str = CLIENT_KEY, waits: float = 600.0, content: str = PROMPT, **more: Any) -> bytes:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}
    waiting = f"x-stainless-read-timeout: {waits}"
    return post(V1, json.dumps(body).encode(), "Connection: close", waiting, key=key)


PTU = {"deployment": "gpt-4o-ptu"}

PACED = copy.deepcopy(SPEC)
"""One deployment writes as slowly as a model does, so that its chunks come one by one."""
PACED["sweden"]["deployments"]["gpt-4o-mini"]["tokens_per_second"] = 8


@dataclass
class Scene:
    """A call that is played. ``closed``: the first endpoint takes no connections."""

    request: bytes
    faults: tuple[tuple[str, dict[str, Any]], ...] = ()
    closed: bool = False
    hangs_up: bool = False


SCENES: dict[str, Scene] = {
    "models": Scene(MODELS),
    "plain": Scene(question()),
    "stream": Scene(question(stream=True)),
    "failure": Scene(question(), (("503", PTU),)),
    "refused in stream": Scene(question(stream=True), (("in-200-refusal", PTU),)),
    "unknown key": Scene(question(key="never-issued")),
    "unknown key, more than one read": Scene(question(key="never-issued", content="word " * 40_000)),
    "health": Scene(head("GET /health/ready HTTP/1.1", "Connection: close")),
    "unknown model": Scene(question(model="gpt-9")),
    "half a body": Scene(question()[:-10]),
    "bad head": Scene(b"NONSENSE\r\n\r\n"),
    "all out": Scene(question(), (("429", {"times": -1}),)),
    "all broken": Scene(question(), (("503", {"times": -1, "retry_after_seconds": 1.0}),)),
    "no connection": Scene(question(), closed=True),
    "cut": Scene(question(stream=True), (("cut", PTU),)),
    "stall": Scene(question(stream=True, content=LONG), (("stall", {**PTU, "events": 1500}),)),
    "silence": Scene(question(stream=True, waits=1.0), (("hang", PTU),)),
    "waits": Scene(question(key=PATIENT_KEY), (("429", {"times": 3, "retry_after_seconds": 0.1}),)),
    "waits in vain": Scene(question(key=PATIENT_KEY), (("429", {"times": -1, "retry_after_seconds": 5}),)),
    "hang-up": Scene(question(), (("hang", PTU),), hangs_up=True),
    "slow stream": Scene(question(stream=True, model="gpt-4o-mini", content="say:" + "word " * 10)),
}


REHEARSALS = 3
PLAYS = 8
STRIKE_SECONDS = 4.0


@dataclass
class Stage:
    """A gateway with the breaking addon in it, and its simulator."""

    gateway: Gateway
    simulator: Simulator
    asked: Path

    def play(self, scene: Scene, asking: str = "") -> bytes:
        """Play a scene from a fresh start; gives all that the client got until the connection's end."""
        while (answer := self._play(scene, asking)) is None:
            # A backend that refused calls in the scenes before takes few at a time for a moment.
            continue
        return answer

    def _play(self, scene: Scene, asking: str) -> bytes | None:
        """Play a scene once. None: a client that was to hang up got an answer from another backend before."""
        self.prepare()
        for kind, how in scene.faults:
            self.simulator.fault(kind, **how)
        if scene.closed:
            self.simulator.listening(False, endpoint="sweden")
        if asking:
            self.ask(asking)
        with Connection(self.gateway) as connection:
            connection.send(scene.request)
            if not scene.hangs_up:
                return connection.rest()
            self.gateway.wait_until(
                lambda: connection.has_more() or self.in_flight() == 1, "calling the backend"
            )
            if connection.has_more():
                return None
        self.gateway.wait_until(lambda: self.in_flight() == 0, "rid of the call")
        return b""

    def strike(self, scene: Scene, name: str) -> bytes | None:
        """Play a scene until a function has raised in it; gives the answer of that play, or None.

        A scene may go another way at another time: how much a read brings is a matter of luck.
        """
        for _ in range(PLAYS):
            answer = self.play(scene, name)
            # Some of it runs only after the client has its answer.
            deadline = time.monotonic() + STRIKE_SECONDS
            while time.monotonic() < deadline:
                if not self.asked.exists():
                    return answer
                time.sleep(0.02)
        return None

    def in_flight(self) -> int:
        return int(self.simulator.active()["in_flight"])

    def calls(self) -> int:
        return int(self.health()["calls"])

    def health(self) -> dict[str, Any]:
        """Ask how it is, on a connection that is all over then: what is broken next, it must not meet."""
        with Connection(self.gateway) as connection:
            connection.send(head("GET /health/ready HTTP/1.1", "Connection: close"))
            _, _, body = connection.rest().partition(b"\r\n\r\n")
        return json.loads(body)  # type: ignore[no-any-return]

    def prepare(self) -> None:
        """Wait until all breaks have ended, and forget everything."""

        def all_available() -> bool:
            return all(backend["available"] for backend in self.health()["backends"])

        self.gateway.wait_until(all_available, "out of its breaks")
        self.simulator.reset()

    def ask(self, what: str) -> None:
        draft = self.asked.with_suffix(".draft")
        draft.write_text(what)
        draft.replace(self.asked)

    def reached_by(self, scene: Scene) -> set[str]:
        """What is called in a scene."""
        self.play(scene, "begin")
        self.ask("report")
        self.health()
        return set(self.asked.with_suffix(".report").read_text().splitlines())


@pytest.fixture(scope="module")
def stage(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp(f"fails-closed-{host}")
    with running(
        host,
        folder,
        home,
        spec=PACED,
        addons=[ADDONS / "break_on_demand.py"],
        env={"BREAK_ASKED": str(folder / "asked"), "BREAK_SAYING": SAYING},
        # A limit that is never met, for the functions that count.
        clients=[
            {"name": "Tester", "key": CLIENT_KEY, "max_tokens_per_minute_in_k": 100_000},
            {"name": "Patient", "key": PATIENT_KEY, "priority": "patient"},
        ],
        priorities=[
            {
                "name": "patient",
                "wait": {"seconds": 1},
                "breaks": {"floor_seconds": 0.3, "ceiling_seconds": 0.3},
            },
            {"name": "others"},
        ],
        # Much longer than the slow stream pauses.
        replay={"idle_seconds": 1},
        limits={"body_seconds": 0.3},
        breaks={"default_seconds": 0.02, "floor_seconds": 0.01, "ceiling_seconds": 0.02},
        drain_seconds=1,  # the functions that count calls out are broken too
    ) as (gateway, simulator):
        yield Stage(gateway, simulator, folder / "asked")


@pytest.fixture(scope="module")
def scenes(stage: Stage) -> dict[str, str]:
    """By function: the first scene in which it is called each time, else the first in which it was at all."""
    found: dict[str, str] = {}
    at_times: dict[str, str] = {}
    for name, scene in SCENES.items():
        reached = [stage.reached_by(scene) for _ in range(REHEARSALS)]
        for function in set.intersection(*reached):
            found.setdefault(function, name)
        for function in set.union(*reached):
            at_times.setdefault(function, name)
    found = at_times | found
    # In other streams a read may be a whole chunk, or not.
    return found | dict.fromkeys(SHORT_WAY, "slow stream")


SHORT_WAY = (
    "Delivery.take",
    "GatewayLayer.take",
    "GatewayStream._is_delivering",
    "Lane.take",
    "delivery.whole_chunks",
)

OUTERMOST = {
    "Ask.perform",
    "Gateway.limits",  # it is asked first where a connection begins
    "GatewayAddon.client_connected",
    "GatewayAddon.client_disconnected",
    "GatewayAddon.gateway_ask",
    "GatewayAddon.gateway_attempt_failed",
    "GatewayAddon.gateway_breaks_withdrawn",
    "GatewayAddon.gateway_call_ended",
    "GatewayAddon.next_layer",
    "Plugin.gateway_backend_failed",
    "Plugin.gateway_call_finished",
}
"""What mitmproxy itself calls, and logs the exceptions of, with their messages."""

LOOKS_ON = {
    "Gateway.catch_up",  # the gateway calls it from time to time, too
    "Gateway.limits",
    "GatewayAddon.client_connected",  # what it guards against, next_layer does too
    "GatewayAddon.client_disconnected",
    "GatewayAddon.gateway_attempt_failed",
    "GatewayAddon.gateway_breaks_withdrawn",
    "GatewayAddon.gateway_call_ended",
    "Plugin.gateway_backend_failed",
    "Plugin.gateway_call_finished",
    "inspector.attempt_flow",
    # The answer has gone out already.
    "GatewayStream._count_out",
    "DownstreamResponse.end",
    "StreamContext.end_trial",
    "StreamContext.release_body",
    # A backend whose connection breaks down is replaced.
    "GatewayLayer.register_connection",
    "BackendHttp1Client.read_body",
    "BackendHttp1Client.read_headers",
}
"""What a call can do without."""

ELSEWHERE = {
    "Delivery.all_sent",  # a client hangs up in the middle of a stream
    "Delivery.so_far",
    "DownstreamResponse.tell_of_bug",
    "Scheduler._liveness_of",  # only the first call of a backend needs it
    "Scheduler.queues",
    "Scheduler.release",
    "Scheduler.waiting",
    "Gateway.adopt",
    "Gateway.join_peers",
    "Gateway.prepare",
    "Gateway.say",  # the workbench and a held response need it
    "Gateway.switched",
    "GatewayAddon.configure",
    "GatewayAddon.load",
    "GatewayAddon.running",
    "GatewayAddon.tls_start_client",
    "GatewayAddon.gateway_breaks_withdrawn",  # it takes calls of two clients that fail alike
    "GatewayHttp1Server._cut",  # it closes the connection that an exception would close
    "GatewayLayer.handle_event",
    "GatewayStream.crashed",
    "GatewayStream.fail_closed",
    "GatewayStream.open_session",  # tests/proxy/test_session.py has sessions
    "RequestSteps.stop_swallowing",  # the connection that it closes has its answer
    "EngineDriver.note_bug",
    "EngineDriver.note_hang_up",  # an addon has to hold the flow
    "StreamContext.see_that_there_is_a_flow",
    "QueueWaker.changed",  # a call has to wait; tests/proxy/test_layer.py
    "QueueWaker.left",
    "Gateway.close",
    # Uploads, and calls that fall back to another deployment.
    "Attempts.answer_refused",
    "Attempts.keep_refused",
    "StreamContext.answer_has_begun",
    "UpstreamResponse.request_sent",
    # Sessions; an exception in one is tried in the tests of sessions.
    "DownstreamResponse.accept",
    "EngineDriver.begin_session",
    "EngineDriver.book",
    "GatewayHttp1Server.passthrough",
}
"""What belongs to the start, the end, TLS and displays, and what is done about exceptions and hang-ups."""

BEFORE_SENDING = re.compile(
    r"(engine|downstream_request|request_head|health|Plugin\.gateway_(client|backend_chosen)|Ask)\b.*"
    r"|Engine\.(?!abandoned)\w+|Setup\.plan"
    r"|upstream_attempt\.build_request"
    r"|RequestSteps\.(?!swallow)\w+|GatewayStream\.(advance|_send|respond)"
    r"|EngineDriver\.(begin|advance|_choose)|StreamContext\.(tell|ask|refused)"
    r"|UpstreamAttempt\.start"
    r"|Attempts\.(run|_next_backend|_look|_try|_spent)|aftermath\.routing_request_of|scheduler\.order"
    r"|Scheduler\.(expect|candidates|acquire|is_free|liveness)"
    r"|Gateway\.(begun|identify|in_force|config)"
    r"|GatewayAddon\.(next_layer|_layer|gateway_ask)"
    r"|GatewayHttp1Server\.(read_\w+|_refuse)"
)
"""What is called first before anything is sent to a backend."""


REACHED = {
    "RequestSteps._identify",
    "RequestSteps._clean",
    "RequestSteps._target",
    "RequestSteps._make_room",
    "Attempts._after_attempt",
    "Attempts._hold_against",
    "Attempts._give_up",
}
"""Private steps that some scene must take: what they do, every call or every failure needs."""


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_in(stage: Stage, scenes: dict[str, str], name: str) -> None:
    if name not in scenes or name in ELSEWHERE:
        # Private steps that none of the scenes takes are for the tests of their modules.
        may_be_missed = "._" in name and name not in REACHED
        assert name in ELSEWHERE or may_be_missed or name == "inspector.attempt_flow", (
            f"{name} is not reached"
        )
        return
    check(stage, name, scenes[name])


@pytest.mark.each_host
@pytest.mark.parametrize(
    ("name", "scene"),
    {
        "BackendHttp1Client.read_headers": "plain",
        "GatewayHttp1Server.read_headers": "plain",
        "EngineDriver.begin": "plain",
        "Delivery.ended": "stream",
        "scheduler.order": "plain",
        "Plugin.gateway_client_identified": "plain",
        "Plugin.gateway_backend_failed": "failure",
        "Plugin.gateway_call_finished": "plain",
    }.items(),
)
def test_an_exception_on_each_host_in(stage: Stage, name: str, scene: str) -> None:
    """What mitmproxy does with exceptions, it does in both."""
    check(stage, name, scene)


def check(stage: Stage, name: str, scene_name: str) -> None:
    scene = SCENES[scene_name]
    calls, before = stage.calls(), len(stage.gateway.stdout)
    healthy = stage.play(scene)
    answer = stage.strike(scene, name)
    assert answer is not None, f"{name} was not called in {scene_name!r}, in {PLAYS} plays"
    seen = stage.simulator.requests()

    stage.gateway.wait_until(lambda: "Traceback" in stage.gateway.stdout[before:], "telling of it")
    said = stage.gateway.stdout[before:]
    if name not in OUTERMOST:
        assert "RuntimeError" in said
        assert "it failed on" not in said
        assert PROMPT not in said or stage.gateway.host == "mitmdump"
        assert CLIENT_KEY not in said
    for secret in (SAYING, CLIENT_KEY, PROMPT, "Traceback"):
        assert secret.encode() not in answer
    assert is_told(answer, healthy, name), answer
    if BEFORE_SENDING.fullmatch(name):
        assert seen == []

    eventually(
        lambda: stage.play(SCENES["plain"]).startswith(b"HTTP/1.1 200 "), "an answer to the call after it"
    )
    if name != "GatewayStream._count_out":
        assert stage.calls() == calls


IN_LINE = {
    "Scheduler._excess",
    "Scheduler._makes_way",
    "Scheduler._opens",
    "Scheduler._serve",
    "Scheduler._turns",
    "Scheduler.serve_waiting",
    "QueueWaker._release",
    "QueueWaker._set_timer",
    "QueueWaker._wake",
}
"""What says whose turn it is: when it fails, those who wait go on by themselves, to a backend or to a 429."""


def is_told(answer: bytes, healthy: bytes, name: str) -> bool:
    """Whether the client can tell that something went wrong, or whether nothing did for it."""
    status, _, rest = answer.partition(b"\r\n")
    assert answer.count(b"HTTP/1.1 ") <= 1, "answered twice"
    if answer == b"":
        return True  # cut off before any answer
    if name in LOOKS_ON and status == healthy.partition(b"\r\n")[0]:
        return True
    if name in IN_LINE and status in (b"HTTP/1.1 200 OK", b"HTTP/1.1 429 Too Many Requests"):
        return True
    if status == b"HTTP/1.1 500 Internal Server Error":
        head, _, body = rest.partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head
        return bool(json.loads(body)["error"]["code"] == "internal_error")
    # It may have struck at the end of an earlier connection, or of this one, when the client had all.
    at_an_end = name.startswith(("GatewayLayer.", "GatewayHttp1Server."))
    if status == healthy.partition(b"\r\n")[0] == b"HTTP/1.1 200 OK" and b"text/event-stream" in answer:
        return b'"error"' in answer or (at_an_end and answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"))
    if name == "GatewayAddon.next_layer":
        # Then mitmproxy's own layer gets the connection, whose upstream is nowhere.
        return status == b"HTTP/1.1 502 Bad Gateway"
    if at_an_end:
        return status == healthy.partition(b"\r\n")[0]
    # Or it was answered before.
    return not status.startswith(b"HTTP/1.1 2") and status in healthy
