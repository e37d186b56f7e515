"""Plugins: the shipped example on both hosts, and what an event costs that has no listener."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import CHECKOUT, READY_PATH, Answer, Gateway, Host, Simulator
from tests.e2e.settings import CLIENT_KEY, configuration

EXAMPLE = CHECKOUT / "examples" / "header_policy.py"
ADDONS = Path(__file__).parent / "addons"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}

StartGateway = Callable[..., Gateway]


def chat(gateway: Gateway, *, stream: bool = False, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {**QUESTION, "stream": stream}
    return gateway.request(
        "POST", "/openai/v1/chat/completions", key=CLIENT_KEY, headers=named, json_body=body
    )


# --- the example -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded_at_first(
    host: Host, simulator_of_the_setting: Simulator, tmp_path_factory: pytest.TempPathFactory, home: Path
) -> Iterator[Gateway]:
    simulator = simulator_of_the_setting
    config = configuration(
        simulator.urls, simulator.keys, breaks={"floor_seconds": 0.01, "ceiling_seconds": 0.02}
    )
    folder = tmp_path_factory.mktemp(f"plugin-{host}")
    gateway = Gateway(host, config, folder, home=home, addons=[EXAMPLE])
    yield gateway
    assert gateway.stop() == 0, gateway.log


@pytest.fixture
def guarded(guarded_at_first: Gateway) -> Gateway:
    """A gateway with the example loaded, and no backend in a break."""
    gateway = guarded_at_first

    def all_available() -> bool:
        backends = gateway.request("GET", READY_PATH).json()["backends"]
        return all(backend["available"] for backend in backends)

    gateway.wait_until(all_available, "out of its breaks")
    return gateway


@pytest.mark.each_host
def test_the_example_refuses(guarded: Gateway, simulator: Simulator) -> None:
    answer = chat(guarded)
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "cost_centre_missing"
    assert "x-cost-centre" in answer.json()["error"]["message"]
    assert simulator.requests() == []


@pytest.mark.each_host
@pytest.mark.parametrize("stream", [False, True])
def test_the_example_adds_a_header_and_sees_the_record(
    guarded: Gateway, simulator: Simulator, stream: bool
) -> None:
    payer = "4712" if stream else "4711"
    answer = chat(guarded, stream=stream, x_cost_centre=payer)
    assert answer.status == 200
    (seen,) = simulator.requests()
    assert seen["headers"]["x-asked-by"] == "Tester"
    assert seen["headers"]["x-cost-centre"] == payer
    guarded.wait_until(lambda: f"{payer}: " in guarded.log, "done with the record")
    tokens = guarded.log.split(f"{payer}: ")[1].split(" tokens out")[0]
    assert int(tokens) > 0


@pytest.mark.each_host
def test_the_example_vetoes_backends(guarded: Gateway, simulator: Simulator) -> None:
    answer = chat(guarded, x_cost_centre="4710", x_gateway_endpoint="france")
    assert answer.status == 200
    assert answer.headers["x-gateway-backend"] == "gpt-4o-france@france"
    (seen,) = simulator.requests()
    assert "x-gateway-endpoint" not in seen["headers"]


@pytest.mark.each_host
def test_a_replay_asks_the_example_again(guarded: Gateway, simulator: Simulator) -> None:
    simulator.fault("503", times=-1, endpoint="sweden", deployment="gpt-4o-ptu")
    answer = chat(guarded, x_cost_centre="4710", x_gateway_endpoint="sweden")
    assert answer.headers["x-gateway-backend"] == "gpt-4o-paygo@sweden"
    assert answer.headers["x-gateway-attempts"] == "2"


@pytest.mark.each_host
def test_a_veto_of_everything_is_a_429(guarded: Gateway, simulator: Simulator) -> None:
    answer = chat(guarded, x_cost_centre="4710", x_gateway_endpoint="norway")
    assert answer.status == 429
    assert answer.json()["error"]["code"] == "all_backends_out"
    assert simulator.requests() == []


# --- what an event costs -----------------------------------------------------------------------------


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """Where the counting addon writes what was made."""
    return tmp_path / "counts.json"


def test_an_event_without_a_listener_is_never_built(
    start_gateway: StartGateway, simulator: Simulator, counts: Path
) -> None:
    gateway = start_gateway(
        simulator, addons=[ADDONS / "count_events.py"], env={"COUNT_EVENTS_IN": str(counts)}
    )
    make_one_call_of_two_attempts(gateway, simulator)
    assert gateway.stop() == 0
    assert json.loads(counts.read_text()) == {}


def test_an_event_with_a_listener_is_built_once(
    start_gateway: StartGateway, simulator: Simulator, counts: Path
) -> None:
    addons = [ADDONS / "count_events.py", ADDONS / "hear_everything.py"]
    gateway = start_gateway(simulator, addons=addons, env={"COUNT_EVENTS_IN": str(counts)})
    call = make_one_call_of_two_attempts(gateway, simulator)
    gateway.wait_until(lambda: '"finished"' in gateway.log, "done with the call")
    assert heard(gateway) == [
        {"event": "identified", "client": "Tester", "body": False},
        {
            "event": "chosen",
            "candidates": ["gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden", "gpt-4o-france@france"],
        },
        {"event": "chosen", "candidates": ["gpt-4o-paygo@sweden", "gpt-4o-france@france"]},
        {"event": "failed", "backend": "gpt-4o-ptu@sweden", "reason": "503 ServiceUnavailable"},
        {"event": "finished", "call": call, "attempts": 2},
    ]
    assert gateway.stop() == 0
    made = json.loads(counts.read_text())
    assert made.pop("GatewayAskHook") == 3
    assert made == {
        "ClientIdentified": 1, "GatewayClientIdentifiedHook": 1,
        "BackendChoice": 2, "GatewayBackendChosenHook": 2,
        "BackendFailed": 1, "GatewayBackendFailedHook": 1,
        "CallFinished": 1, "GatewayCallFinishedHook": 1, "GatewayCallEndedHook": 1,
    }  # fmt: skip


def make_one_call_of_two_attempts(gateway: Gateway, simulator: Simulator) -> str:
    simulator.fault("503", deployment="gpt-4o-ptu")
    answer = chat(gateway)
    assert answer.status == 200
    assert answer.headers["x-gateway-attempts"] == "2"
    return answer.headers["x-gateway-call"]


def heard(gateway: Gateway) -> list[dict[str, Any]]:
    lines = (line.partition("heard ")[2] for line in gateway.log.splitlines() if "heard {" in line)
    events = [json.loads(line) for line in lines]
    # Nobody waits for the news of a failed attempt, so it may come after the next choice.
    return sorted(events, key=lambda e: ["identified", "chosen", "failed", "finished"].index(e["event"]))
