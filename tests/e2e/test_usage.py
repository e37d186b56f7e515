"""Usage in real processes: metrics for a real Prometheus, records after a kill, and sinks that fail."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import openai
import pytest

from aoai_gateway.usage.sink import GATHER_SECONDS
from tests.e2e import json_lines
from tests.e2e.processes import START_SECONDS, Gateway, Simulator, eventually, request
from tests.e2e.settings import CLIENT_KEY
from tests.ports import free_port
from tests.programs import require
from tests.usage.receiver import receiving

pytestmark = pytest.mark.e2e

CHAT = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


def ask(gateway: Gateway) -> int:
    return gateway.request("POST", "/openai/v1/chat/completions", key=CLIENT_KEY, json_body=CHAT).status


def admin_url(gateway: Gateway) -> str:
    gateway.wait_until(lambda: "Status page at" in gateway.log, "showing its status page")
    return str(re.findall(r"Status page at (http://\S+)/", gateway.log)[0])


def split_address(url: str) -> tuple[str, int]:
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    return where.hostname, where.port


def test_a_real_prometheus_scrapes_it_and_takes_the_alerts(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    program = require("prometheus")
    gateway = start_gateway(simulator, admin={"port": 0})
    assert [ask(gateway) for _ in range(3)] == [200] * 3
    shutil.copy(RULES, tmp_path / "alerts.yml")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nrule_files: [alerts.yml]\nscrape_configs:\n"
        "  - job_name: aoai-gateway\n"
        f"    static_configs: [{{targets: ['{urlsplit(admin_url(gateway)).netloc}']}}]\n"
    )
    port = free_port()
    prometheus = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def query(what: str) -> Any:
            try:
                return request(f"http://127.0.0.1:{port}/api/v1/{what}", "GET").json()["data"]
            except (OSError, ValueError, KeyError):
                return None

        def counted() -> bool:
            found = query("query?query=" + quote("sum(aoai_gateway_calls_total)"))
            return bool(found and found["result"] and float(found["result"][0]["value"][1]) >= 3)

        eventually(counted, "Prometheus has the calls")
        (group,) = query("rules")["groups"]
        assert len(group["rules"]) > 10
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    finally:
        prometheus.kill()
        prometheus.wait(60)


def test_a_gateway_that_is_killed_under_load_loses_no_more_than_the_last_moment(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, usage_sinks={"jsonl": {"path": str(path)}})
    ended: list[str] = []
    over = threading.Event()

    def call_on_and_on() -> None:
        while not over.is_set():
            try:
                answer = gateway.request(
                    "POST", "/openai/v1/chat/completions", key=CLIENT_KEY, json_body=CHAT
                )
            except (OSError, http.client.HTTPException):
                return  # it has been killed
            if answer.status == 200:
                ended.append(answer.headers["x-gateway-call"])

    callers = [threading.Thread(target=call_on_and_on) for _ in range(4)]
    for each in callers:
        each.start()
    try:
        eventually(lambda: len(ended) >= 100, "calls were answered")
        long_ended = set(ended)
        time.sleep(GATHER_SECONDS + 2)  # the rest is for a busy machine
        more = len(ended) - len(long_ended)
    finally:
        gateway.send(signal.SIGKILL)
        over.set()
        for each in callers:
            each.join(60)
    gateway.wait()
    assert more > 0, "it was killed in the middle of its work"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    calls = [record["call"] for record in records]
    assert long_ended <= set(calls)
    assert len(set(calls)) == len(calls)
    assert {record["status"] for record in records} == {200}


def test_sinks_that_fail_and_hang_cost_records_and_no_calls(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    good, lost = tmp_path / "good.jsonl", tmp_path / "gone" / "lost.jsonl"
    lost.parent.mkdir()
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # it accepts, and never answers
        gateway = start_gateway(
            simulator,
            admin={"port": 0},
            usage_log=str(good),
            usage_sinks={
                "jsonl": {"path": str(lost)},
                "otlp": {"endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}", "metrics": False},
            },
        )
        lost.unlink(missing_ok=True)
        lost.symlink_to("/dev/full")
        url = admin_url(gateway)
        scraper = stack.enter_context(socket.create_connection(split_address(url)))
        # It asks again and again, and never reads.
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)
        begin = time.monotonic()
        assert [ask(gateway) for _ in range(20)] == [200] * 20
        # Whoever waited for the collector would wait for ten seconds in each call.
        assert time.monotonic() - begin < 60

        def sinks() -> dict[str, Any]:
            found = request(f"{url}/api/status", "GET").json()
            return {sink["name"]: sink for sink in found["sinks"]}

        eventually(lambda: sinks()[str(lost)]["dropped"] == 20, "the loss is counted")
        assert sinks()[str(lost)]["trouble"] == "No space left on device"
        eventually(lambda: sinks()[str(good)]["written"] == 20, "the others are written")
        ready = gateway.request("GET", "/health/ready")
        assert (ready.status, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["reasons"] == ["usage records are lost"]
        metrics = request(f"{url}/metrics", "GET").body.decode()
        assert f'aoai_gateway_sink_dropped_total{{sink="{lost}"}} 20.0' in metrics
        gateway.stop()


def writers_of(gateway: Gateway) -> list[int]:
    """The processes beside a gateway in which its writers are."""
    found = []
    for about in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            parent = int((about / "stat").read_text().rpartition(")")[2].split()[1])
            is_writer = b"aoai_gateway.usage.writer_child" in (about / "cmdline").read_bytes()
            if parent == gateway.pid and is_writer:
                found.append(int(about.name))
    return found


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_the_process_beside_the_gateway_may_be_killed_and_ends_with_it(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    with receiving() as collector:
        gateway = start_gateway(
            simulator,
            admin={"port": 0},
            usage_sinks={"otlp": {"endpoint": collector.url, "metrics": False}},
        )
        url = admin_url(gateway)

        def sink() -> dict[str, Any]:
            (found,) = request(f"{url}/api/status", "GET").json()["sinks"]
            return dict(found)

        assert ask(gateway) == 200
        eventually(lambda: sink()["written"] == 1, "the call's spans are taken", seconds=START_SECONDS)
        (first,) = writers_of(gateway)
        os.kill(first, signal.SIGSTOP)
        assert [ask(gateway) for _ in range(5)] == [200] * 5, "traffic does not wait for it"
        os.kill(first, signal.SIGKILL)
        assert ask(gateway) == 200
        eventually(lambda: sink()["waiting"] == 0, "another one goes on", seconds=START_SECONDS)
        counted = sink()
        assert counted["written"] + counted["dropped"] == 7, "each is written or lost"
        assert ask(gateway) == 200
        eventually(
            lambda: sink()["written"] == counted["written"] + 1, "the next is written", seconds=START_SECONDS
        )
        (second,) = writers_of(gateway)
        assert second != first
        gateway.send(signal.SIGKILL)
        gateway.wait()
        eventually(lambda: not is_alive(second), "it ends, too")


def test_the_log_is_json_if_it_is_to_be(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    # PowerProxy's key is warned of while the configuration is read.
    gateway = start_gateway(simulator, admin={"port": 0}, log={"format": "json"}, region="westeurope")
    simulator.fault("429", endpoint="*", times=2)
    ask(gateway)
    gateway.stop()
    lines = [json.loads(line) for line in gateway.stdout.splitlines() if line.startswith("{")]
    (warned,) = [line for line in gateway.stdout.splitlines() if "without meaning here: region" in line]
    assert json.loads(warned)["level"] == "warning"
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert "attempt.failed" in {line["event"] for line in lines}
    assert lines[-1]["event"] == "gateway.stopped"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Assistants API
def test_work_that_goes_on_is_counted_once_it_is_looked_at(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "usage.jsonl"
    clients = [{"name": "Tester", "key": CLIENT_KEY, "max_tokens_per_minute": 100_000}]
    gateway = start_gateway(simulator, usage_log=str(path), clients=clients)
    sdk = openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=CLIENT_KEY)
    asked = sdk.responses.create(model="gpt-4o", input="say: one two", background=True, max_output_tokens=500)
    assert asked.usage is None
    ended = [sdk.responses.retrieve(asked.id) for _ in range(3)][-1]
    assert ended.usage is not None
    thread = sdk.beta.threads.create()
    assistant = sdk.beta.assistants.create(model="gpt-4o")
    run = sdk.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.usage is not None

    def told() -> list[dict[str, Any]]:
        found = json_lines.read(path)
        return found if any(r["operation"] == "threads.runs.retrieve" for r in found) else []

    records = eventually(told, "all are recorded")
    used = {r["usage_of"]: r["input_tokens"] + r["output_tokens"] for r in records if r["usage_of"]}
    begun = {r["operation"]: r["call"] for r in records}
    assert used == {
        begun["responses"]: ended.usage.total_tokens,
        begun["threads.runs.create"]: run.usage.total_tokens,
    }
    assert sum(r["charged_tokens"] or 0 for r in records) == sum(used.values())
    assert [r["input_tokens"] for r in records if not r["usage_of"]] == [None] * (len(records) - 2)
