"""The HAProxy of deploy/ before two gateways that are restarted one after the other: no call fails."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import processes
from tests.e2e.processes import CHECKOUT, Gateway, Simulator, eventually, request
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration
from tests.ports import free_port
from tests.programs import require

CONFIG = CHECKOUT / "deploy" / "haproxy" / "haproxy.cfg"
CHAT = "/openai/v1/chat/completions"
POLLED_SECONDS = 3.5
"""HAProxy asks each second; from the third time on the gateway takes it for a poll."""

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say: Hello there"}]}


@contextmanager
def balancer(folder: Path, gateways: list[Gateway]) -> Iterator[int]:
    """Run HAProxy with the shipped file; yields its port."""
    port = free_port()
    env = {**os.environ, "BIND": f"127.0.0.1:{port}"}
    for number, gateway in enumerate(gateways, 1):
        env[f"GATEWAY_{number}"] = f"127.0.0.1:{gateway.port}"
    command = [require("haproxy"), "-db", "-f", str(CONFIG)]
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield port
    finally:
        process.kill()
        process.wait(60)


@contextmanager
def load(port: int, callers: int = 4) -> Iterator[Counter[int | str]]:
    """Keep it busy: each caller on a connection that it keeps, streaming every other call."""
    seen: Counter[int | str] = Counter()
    over = threading.Event()

    def work(number: int) -> None:
        here = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"api-key": CLIENT_KEY, "content-type": "application/json"}
        while not over.is_set():
            try:
                here.request("POST", CHAT, json.dumps(BODY | {"stream": bool(number % 2)}), headers)
                answer = here.getresponse()
                whole = answer.read()
                complete = b"[DONE]" in whole if number % 2 else b"finish_reason" in whole
                seen[answer.status if complete or answer.status != 200 else "half an answer"] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[repr(error)] += 1
                here.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_a_rolling_restart_fails_no_call(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(SPEC, tmp_path)
    config = configuration(simulator.urls, simulator.keys)
    gateways = [
        Gateway("serve", config, tmp_path, home=home, name=f"gateway-{number}") for number in range(2)
    ]
    try:
        with balancer(tmp_path, gateways) as port:
            up = f"http://127.0.0.1:{port}/health/ready"
            eventually(lambda: _answers(up), "HAProxy has found them")
            time.sleep(POLLED_SECONDS)
            with load(port) as seen:
                for number, old in enumerate(gateways):
                    served = seen[200]
                    old.send()
                    assert old.wait(40) == 0, old.log
                    assert "calls are still taken for 5 s" in old.log
                    monkeypatch.setattr(processes, "free_port", lambda old=old: old.port)
                    name = f"gateway-{number}-again"
                    gateways[number] = Gateway("serve", config, tmp_path, home=home, name=name)
                    eventually(lambda served=served: seen[200] > served + 20, "calls are served")
                    time.sleep(POLLED_SECONDS)
            assert set(seen) == {200}, seen
    finally:
        for each in (*gateways, simulator):
            each.kill()


def _answers(url: str) -> bool:
    try:
        return request(url).status == 200
    except OSError:
        return False
