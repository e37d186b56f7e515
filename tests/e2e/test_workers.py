"""Two workers that are one gateway: real processes, signals, crashes and reloads."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from aoai_gateway.runtime.readiness import APART_SECONDS, POLLS
from tests.e2e import json_lines
from tests.e2e.processes import READY_PATH, START_SECONDS, Gateway, Simulator, eventually, request
from tests.e2e.settings import SPEC, configuration
from tests.e2e.workers import LIMIT, Workers, key_of, runs, workers
from tests.redis_server import require_redis

CHAT = "/openai/v1/chat/completions"
UNREADY_SECONDS = 6
HELLO = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "say: one two three"}]}
LONGER = {**HELLO, "messages": [{"role": "user", "content": "say: " + "one two three " * 6}]}
"""A call of some 50 tokens: a quarter of a percent of what a client has."""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    require_redis()
    simulator = Simulator(SPEC, tmp_path_factory.mktemp("simulator"), arguments=["--count", "tiktoken"])
    yield simulator
    simulator.kill()


@pytest.fixture(scope="module")
def gateway(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Workers]:
    with workers(simulator, tmp_path_factory.mktemp("workers"), home) as started:
        yield started
        assert started.stop() == 0, started.log
        assert "Traceback" not in started.log


def call(gateway: Gateway, client: str = "team", body: dict[str, Any] = HELLO) -> int:
    return gateway.request("POST", CHAT, key=key_of(client), json_body=body).status


@contextmanager
def load(gateway: Gateway, callers: int = 4) -> Iterator[Counter[int | str]]:
    """Keep it busy, each call on a connection of its own; yields statuses and failures."""
    seen: Counter[int | str] = Counter()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                seen[call(gateway)] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[repr(error)] += 1

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_both_serve_and_are_shown_as_one(gateway: Workers) -> None:
    before = sum(gateway.status()["traffic"]["answers"])
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: call(gateway), range(40)))
    assert statuses == [200] * 40
    eventually(lambda: sum(gateway.status()["traffic"]["answers"]) == before + 40, "all are counted")
    status = gateway.status()
    assert status["gateway"]["state"] == "shared"
    assert [worker["number"] for worker in status["workers"]] == [1, 2]
    pids = set(gateway.pids())
    assert len(pids) == 2
    assert gateway.pid not in pids
    served = {r["pid"] for r in json_lines.read(gateway.config_path.parent / "usage.jsonl") if "pid" in r}
    assert served in (set(), pids)


def test_one_budget_to_the_percent(gateway: Workers) -> None:
    log = gateway.config_path.parent / "usage.jsonl"

    def until_refused(_: int) -> int:
        refused = calls = 0
        while refused < 3:
            refused += call(gateway, "crowd", LONGER) == 429
            calls += 1
        return calls

    begun = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        asked = sum(pool.map(until_refused, range(16)))
    assert time.monotonic() - begun < 50, "the window must not have moved on"

    def records() -> list[dict[str, Any]]:
        found = [r for r in json_lines.read(log) if r["client"] == "crowd"]
        return found if len(found) >= asked else []

    charged = [record["charged_tokens"] or 0 for record in eventually(records, "all records")]
    assert max(charged) < 0.004 * LIMIT
    assert 0.99 * LIMIT <= sum(charged) <= LIMIT


def test_work_that_goes_on_is_charged_once_whichever_worker_is_asked(gateway: Workers) -> None:
    log, path, key = gateway.config_path.parent / "usage.jsonl", "/openai/v1/responses", key_of("worker")
    body = {"model": "gpt-4o", "input": "say: one two", "background": True, "max_output_tokens": 50}
    asked = [gateway.request("POST", path, key=key, json_body=body).json() for _ in range(8)]
    for _ in range(3):
        for each in asked:
            looked = gateway.request("GET", f"{path}/{each['id']}", key=key).json()
            assert looked["status"] == "completed"

    def records() -> list[dict[str, Any]]:
        found = [r for r in json_lines.read(log) if r["client"] == "worker"]
        return found if len(found) >= 4 * len(asked) else []

    found = eventually(records, "all records")
    begun = sorted(r["call"] for r in found if r["operation"] == "responses")
    looks = [r for r in found if r["usage_of"]]
    assert sorted(r["usage_of"] for r in looks) == begun
    charged = sum(r["charged_tokens"] or 0 for r in found)
    assert charged == sum(r["input_tokens"] + r["output_tokens"] for r in looks)


def test_a_control_reaches_all(gateway: Workers) -> None:
    url = gateway.admin_url

    def control(what: str, **body: Any) -> int:
        return request(f"{url}/api/{what}", "POST", json_body=body).status

    assert control("switch", kind="client", name="team", on=False) == 200
    assert {call(gateway) for _ in range(12)} == {401}
    assert control("switch", kind="client", name="team", on=True) == 200
    assert {call(gateway) for _ in range(12)} == {200}
    assert control("breaks/open", name="nothing", seconds=3) == 404
    assert request(f"{url}/").headers["content-type"].startswith("text/html")
    assert request(f"{url}/api/status", headers={"host": "evil.example"}).status == 403


def test_a_killed_worker_comes_back(gateway: Workers) -> None:
    first, second = gateway.pids()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: first not in (gateway.ready_pids() or [first]), "another one is there")
    assert second in gateway.pids()
    found = next(worker for worker in gateway.status()["workers"] if worker["starts"] > 1)
    assert found["last_end"] == "was ended by SIGKILL"
    assert "comes back in 0.1 s" in gateway.log
    assert {call(gateway) for _ in range(12)} == {200}


def test_a_reload_replaces_the_workers_and_fails_no_call(gateway: Workers) -> None:
    before = set(gateway.pids())
    with load(gateway) as seen:
        gateway.send(signal.SIGHUP)
        eventually(
            lambda: not before & set(gateway.ready_pids() or before), "all were replaced", START_SECONDS
        )
        served = seen[200]
        eventually(lambda: seen[200] > served + 20, "the new ones serve")
    assert set(seen) == {200}


def test_no_counter_falls_when_workers_come_and_go(gateway: Workers) -> None:
    def calls() -> float:
        said = request(f"{gateway.admin_url}/metrics").body.decode()
        return sum(
            float(value) for value in re.findall(r"^aoai_gateway_calls_total\{.*\} (\S+)$", said, re.M)
        )

    known = calls()
    assert {call(gateway) for _ in range(12)} == {200}
    eventually(lambda: calls() == known + 12, "all are counted")
    before = set(gateway.pids())
    gateway.send(signal.SIGHUP)
    assert {call(gateway) for _ in range(12)} == {200}
    eventually(lambda: not before & set(gateway.ready_pids() or before), "all were replaced", START_SECONDS)
    eventually(lambda: calls() == known + 24, "what the old ones counted is kept")
    killed = gateway.pids()[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: killed not in (gateway.ready_pids() or [killed]), "it is back", START_SECONDS)
    assert calls() == known + 24


def test_a_configuration_with_errors_replaces_nothing(gateway: Workers) -> None:
    before, good = gateway.pids(), gateway.config_path.read_text()
    try:
        gateway.config_path.write_text(good + "unknown_section: 1\n")
        gateway.send(signal.SIGHUP)
        eventually(lambda: "no worker is replaced" in gateway.log, "it says so")
    finally:
        gateway.config_path.write_text(good)
    assert gateway.pids() == before
    assert call(gateway) == 200


def test_a_worker_that_is_killed_while_the_file_has_errors_comes_back(gateway: Workers) -> None:
    good = gateway.config_path.read_text()
    try:
        gateway.config_path.write_text(good + "unknown_section: 1\n")
        first, second = eventually(gateway.ready_pids, "both are there")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: first not in (gateway.ready_pids() or [first]), "another one is there")
        # Its socket takes every second connection or so.
        assert {call(gateway) for _ in range(12)} == {200}
        assert second in gateway.pids()
        eventually(lambda: gateway.status()["gateway"]["config_errors"], "the status page shows the errors")
    finally:
        gateway.config_path.write_text(good)
    eventually(lambda: not gateway.status()["gateway"]["config_errors"], "they are gone with their cause")


def test_a_break_at_one_is_a_break_at_the_other(gateway: Workers, simulator: Simulator) -> None:
    simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=60)
    assert call(gateway) == 200
    simulator.clear_faults()

    def passed_over_by_both() -> bool:
        seen = len(simulator.requests())
        assert {call(gateway) for _ in range(12)} == {200}
        return "gpt-4o-ptu" not in {entry["deployment"] for entry in simulator.requests()[seen:]}

    eventually(passed_over_by_both, "both know of the break", 50)
    request(f"{gateway.admin_url}/api/breaks/close", "POST", json_body={})


def test_a_secret_of_a_session_opens_it_at_either(tmp_path: Path, home: Path) -> None:
    require_redis()
    voice = {"voice": {"model": "gpt-realtime", "first_token_seconds": 0, "tokens_per_second": 0}}
    sweden = {"sweden": {"region": "Sweden Central", "deployments": voice}}
    simulator = Simulator(sweden, tmp_path)
    try:
        pools = {"sweden": {"gpt-realtime": ["voice"]}}
        with workers(simulator, tmp_path, home, pools=pools) as gateway:
            made = gateway.request(
                "POST",
                "/openai/v1/realtime/client_secrets",
                key=key_of("team"),
                json_body={"session": {"type": "realtime", "model": "gpt-realtime"}},
            ).json()
            url = f"ws://127.0.0.1:{gateway.port}/openai/v1/realtime"
            headers = {"authorization": f"Bearer {made['value']}"}

            def opens() -> bool:
                try:
                    with connect(url, additional_headers=headers) as session:
                        return bool(json.loads(session.recv())["type"] == "session.created")
                except InvalidStatus:
                    return False

            eventually(opens, "it is known")
            eventually(lambda: all(opens() for _ in range(8)), "it is known to both")
    finally:
        simulator.kill()


def test_the_end_leaves_nothing_behind(simulator: Simulator, tmp_path: Path, home: Path) -> None:
    with workers(simulator, tmp_path, home) as started:
        pids = started.pids()
        assert call(started) == 200
        started.send(signal.SIGKILL)
        started.wait()

        def gone() -> bool:
            return not any(runs(pid) for pid in pids)

        eventually(gone, "the workers have gone with the supervisor")


def test_without_a_store_several_workers_are_refused(
    simulator: Simulator, tmp_path: Path, home: Path
) -> None:
    config = configuration(simulator.urls, simulator.keys)
    started = Workers(
        "serve", config, tmp_path, home=home, wait=False, forked=False, env={"PATH": str(tmp_path)}
    )
    assert started.wait() == 1
    assert "share their quotas and breaks through Redis or Valkey" in started.stderr
    assert "Traceback" not in started.log


def test_a_start_that_fails_ends_it(simulator: Simulator, tmp_path: Path, home: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("raise RuntimeError('no')\n")
    config = configuration(simulator.urls, simulator.keys)
    started = Workers("serve", config, tmp_path, home=home, addons=[plugin], wait=False, forked=False)
    assert started.wait() == 1, started.log


def test_budgets_survive_in_their_file(simulator: Simulator, tmp_path: Path, home: Path) -> None:
    clients = [{"name": "team", "key": key_of("team"), "max_tokens_per_day": 60}]
    budgets = {"budget_file": str(tmp_path / "budgets.json"), "clients": clients}
    with workers(simulator, tmp_path, home, **budgets) as first:
        eventually(lambda: call(first) == 429, "the budget is spent")
        assert first.stop() == 0, first.log
    with workers(simulator, tmp_path, home, **budgets) as second:
        assert call(second) == 429


def test_affinity_survives_in_its_file(simulator: Simulator, tmp_path: Path, home: Path) -> None:
    file, there = tmp_path / "budgets.json", {"x-gateway-endpoint": "france"}
    path = "/openai/v1/conversations"

    def ask(gateway: Gateway, *arguments: str, **more: Any) -> str:
        answer = gateway.request(*arguments, key=key_of("team"), **more)
        assert answer.status == 200, answer.body
        return str(answer.json()["id"])

    simulator.reset()
    with workers(simulator, tmp_path, home, budget_file=str(file)) as first:
        made = [ask(first, "POST", path, headers=there, json_body={}) for _ in range(5)]
        assert first.stop() == 0, first.log
    assert file.with_suffix(".affinity").stat().st_mode & 0o777 == 0o600
    with workers(simulator, tmp_path, home, budget_file=str(file)) as second:
        assert [ask(second, "GET", f"{path}/{name}") for name in made] == made
    assert {(each["endpoint"], each["status"]) for each in simulator.requests()} == {("france", 200)}


def test_a_balancer_is_told_before_the_port_closes_whichever_workers_it_has_asked(
    simulator: Simulator, tmp_path: Path, home: Path
) -> None:
    with workers(simulator, tmp_path, home) as started:
        for _ in range(POLLS):
            assert started.is_ready()
            time.sleep(1.1 * APART_SECONDS)
        started.send()
        # Each on a connection of its own, to an open port.
        eventually(lambda: started.request("GET", READY_PATH).status == 503, "told not to be ready")
        assert call(started) == 200
        assert started.wait() == 0


def test_drain_reports_unready_first(simulator: Simulator, tmp_path: Path, home: Path) -> None:
    with workers(simulator, tmp_path, home, drain={"unready_seconds": UNREADY_SECONDS}) as started:
        with load(started, 2) as seen:
            eventually(lambda: seen[200], "calls are served")
            started.send()
            eventually(lambda: not started.is_ready(), "not ready")
            during = seen[200]
            eventually(lambda: seen[200] > during + 5, "calls are still served", UNREADY_SECONDS)
            assert set(seen) == {200}, started.log
        assert started.wait() == 0
