"""The table of docs/howto/operate.md: each symptom is made to happen, and its commands show and end it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import page, rows
from tests.e2e.processes import Answer, Gateway, Simulator, eventually, request
from tests.e2e.settings import CLIENT_KEY, configuration

pytestmark = pytest.mark.e2e

OPERATE = page("docs/howto/operate.md")
SYMPTOMS = {symptom: (cause, act) for symptom, cause, act in rows(OPERATE.section("What to do when …"))}
CHAT = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}

type Start = Callable[..., Gateway]


class Here:
    """A gateway with its status page, and what an operator does about it."""

    def __init__(
        self,
        start: Start,
        simulator: Simulator,
        folder: Path,
        keys: Mapping[str, str] | None = None,
        **sections: Any,
    ) -> None:
        """``keys``: of endpoints, where they are others than the simulator's."""
        self.simulator, self.records = simulator, folder / "usage.jsonl"
        self.sections: dict[str, Any] = {"admin": {"port": 0}, "usage_log": str(self.records)} | sections
        made = configuration(simulator.urls, {**simulator.keys, **(keys or {})}, **self.sections)
        self.gateway = start(config=made)
        self.gateway.wait_until(lambda: "Status page at" in self.gateway.log, "showing its status page")
        self.url = str(re.findall(r"Status page at (http://\S+)/", self.gateway.log)[0])

    def ask(self, key: str = CLIENT_KEY, **changes: Any) -> Answer:
        path = "/openai/v1/chat/completions"
        return self.gateway.request("POST", path, key=key, json_body=CHAT | changes)

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command of the terminal that the table names; gives what it prints."""
        where = ["--url", self.url] if words[0] != "check" else []
        done = subprocess.run(
            [sys.executable, "-P", "-m", "aoai_gateway.app.cli", *words, *where],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def record(self) -> dict[str, Any]:
        """Return the newest usage record, once there is one."""
        written = eventually(
            lambda: self.records.exists() and self.records.read_text().splitlines(), "a record is written"
        )
        return dict(json.loads(written[-1]))

    def status(self) -> dict[str, Any]:
        return dict(request(f"{self.url}/api/status").json())


def code_of(answer: Answer) -> str:
    return str(answer.json()["error"]["code"])


def all_backends_out(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder)
    here.run("break", "open", "sweden", "--reason", "maintenance")
    here.run("break", "open", "france")
    answer = here.ask()
    assert (answer.status, code_of(answer)) == (429, "all_backends_out")
    said = here.run("status")
    assert "! gpt-4o has no backend for the next " in said
    why = r"by hand: maintenance \(whole endpoint\), since \d\d:\d\d:\d\dZ"
    assert re.search(rf"gpt-4o-ptu@sweden .*{why}", said)
    here.run("break", "close", "--all")
    assert here.ask().status == 200


def deployment_fails(start: Start, simulator: Simulator, folder: Path) -> None:
    clients = [{"name": name, "key": f"key-of-{name}-0123"} for name in ("Ann", "Bob")]
    here = Here(start, simulator, folder, clients=clients)
    simulator.fault("500", times=-1)
    answers = [here.ask(client["key"]).status for _ in range(3) for client in clients]
    assert all(status >= 500 for status in answers)
    eventually(lambda: "deployment.failing: gpt-4o fails" in here.gateway.log, "the log tells it")
    assert "attempt.failed: " in here.gateway.log
    assert "! gpt-4o fails: its backends answer no call" in here.run("status")
    simulator.clear_faults()
    eventually(lambda: here.ask(clients[0]["key"]).status == 200, "it is answered again")
    eventually(lambda: "deployment.recovered: gpt-4o is answered again" in here.gateway.log, "that is told")


def quota_exceeded(start: Start, simulator: Simulator, folder: Path) -> None:
    client = {"name": "Tester", "key": CLIENT_KEY, "max_requests_per_minute": 1}
    here = Here(start, simulator, folder, clients=[client])
    assert here.ask().status == 200
    answer = here.ask()
    assert (answer.status, code_of(answer)) == (429, "quota_exceeded")
    eventually(lambda: here.record()["status"] == 429, "the refusal is written")
    refused = here.record()["refused_by"]
    assert refused == {"quota": "requests_per_minute", "deployment": None, "limit": 1, "asked": 1, "left": 0}
    raised = [client | {"max_requests_per_minute": 100}]
    here.gateway.write(configuration(simulator.urls, simulator.keys, **here.sections | {"clients": raised}))
    eventually(lambda: here.ask().status == 200, "the raised quota is in force")


def shed(start: Start, simulator: Simulator, folder: Path) -> None:
    classes = {"name": "critical"}, {"name": "batch", "wait": {"seconds": 90, "length": 1}}
    keys = {"batch": "key-of-batch-0f1e", "critical": "key-of-critical-22aa"}
    clients = [{"name": name, "key": key, "priority": name} for name, key in keys.items()]
    here = Here(start, simulator, folder, clients=clients, priorities=list(classes))
    for endpoint in ("sweden", "france"):
        here.run("break", "open", endpoint, "--seconds", "60")  # within the time that its class waits
    waiting = threading.Thread(target=here.ask, args=(keys["batch"],))
    waiting.start()
    try:
        eventually(lambda: here.status()["gateway"]["waiting"] == 1, "a call waits")
        answer = here.ask(keys["batch"])
        assert (answer.status, code_of(answer)) == (429, "waiting_line_full")
        assert re.search(r"gpt-4o +0 of 3 +0 +1 batch; longest ", here.run("status"))
    finally:
        here.run("break", "close", "--all")
        waiting.join(60)


def wrong_key(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder)
    assert here.ask("a-retired-key-91c7").status == 401
    said = r"usage\.early: Refused: 401 no key that is known, from 127\.0\.0\.1"
    eventually(lambda: re.search(said, here.gateway.log), "the log says from where")
    assert "a-retired-key-91c7" not in here.gateway.log


def answers_late(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder)
    simulator.fault("429", endpoint="sweden", times=-1)
    assert here.ask(stream=True).headers["x-gateway-backend"] == "gpt-4o-france@france"
    record = here.record()
    *failed, last = record["attempts"]
    assert {each["status"] for each in failed} == {429}
    assert 0 <= failed[0]["started_ms"] < last["started_ms"] < record["first_token_ms"]
    assert last["first_token_ms"] is not None
    assert record["waited_ms"] == record["in_line_ms"] == 0
    metrics = request(f"{here.url}/metrics").body.decode()
    for what in ("queue_wait", "first_token", "overhead"):
        assert f"aoai_gateway_{what}_seconds" in metrics


def never_used(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder)
    first, second = "gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden"
    here.run("break", "open", first, "--seconds", "60")
    here.run("switch", "off", "standin", second)
    assert here.ask().headers["x-gateway-backend"] == "gpt-4o-france@france"
    said = here.run("status")
    assert re.search(rf"{first} .*by hand, since ", said)
    assert re.search(rf"{second} .* off  switched off by hand", said)
    here.run("switch", "on", "standin", second)
    assert here.ask().headers["x-gateway-backend"] == second
    here.run("break", "close", first)
    assert here.ask().headers["x-gateway-backend"] == first


def wrong_credential(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder, keys={"sweden": "a-rotated-key"})
    assert here.ask().headers["x-gateway-backend"] == "gpt-4o-france@france"
    event = "backend.credential_refused"
    eventually(lambda: event in here.gateway.log, "the log names the endpoint")
    (line,) = [each for each in here.gateway.log.splitlines() if event in each]
    assert " ERROR " in line
    assert "sweden" in line
    here.gateway.write(configuration(simulator.urls, simulator.keys, **here.sections))
    eventually(lambda: ".yaml was reloaded." in here.gateway.log, "the new key is in force")
    here.run("check", "--config", str(here.gateway.config_path))
    assert here.ask().headers["x-gateway-backend"] == "gpt-4o-ptu@sweden"


def no_effect(start: Start, simulator: Simulator, folder: Path) -> None:
    here = Here(start, simulator, folder)
    good = configuration(simulator.urls, simulator.keys, **here.sections)
    here.gateway.write(good | {"clientss": []})
    eventually(lambda: here.status()["gateway"]["config_errors"], "the errors are shown")
    assert here.ask().status == 200, "the last good one is in force"
    said = here.run("check", "--config", str(here.gateway.config_path), code=1)
    assert re.search(r':\d+: .*clientss.*did you mean "clients"\?', said)


def records_missing(start: Start, simulator: Simulator, folder: Path) -> None:
    sinks = {"jsonl": {"path": str(folder / "good.jsonl")}}
    here = Here(start, simulator, folder, usage_log="/dev/full", usage_sinks=sinks)
    assert here.ask().status == 200
    eventually(lambda: "usage.sink: The usage log /dev/full" in here.gateway.log, "the log tells the loss")
    eventually(lambda: here.status()["sinks"][0]["written"] == 1, "the other place has it")
    said = here.run("status")
    assert re.search(r"^/dev/full +0 +1 +0 +No space left on device$", said, re.MULTILINE)
    assert re.search(r"^\S+good.jsonl +1 +0 +0 +ok$", said, re.MULTILINE)


TRIED = {
    "clients get 429 `all_backends_out`": all_backends_out,
    "clients get 500, 502 or 503, and `./run.sh status` says that a deployment fails": deployment_fails,
    "clients get 429 `quota_exceeded`": quota_exceeded,
    "clients get 429 `shed` or `waiting_line_full`": shed,
    "clients get 401": wrong_key,
    "answers, or the first tokens of streams, come late": answers_late,
    "one backend is never used": never_used,
    "the log says that an endpoint refuses the gateway's own credential": wrong_credential,
    "a change of the file has no effect": no_effect,
    "usage records are missing": records_missing,
}


def test_each_symptom_of_the_table_is_tried() -> None:
    assert set(TRIED) == set(SYMPTOMS)


@pytest.mark.parametrize("symptom", TRIED)
def test_a_symptom(symptom: str, start_gateway: Start, simulator: Simulator, tmp_path: Path) -> None:
    TRIED[symptom](start_gateway, simulator, tmp_path)
