"""What a client puts into its requests does not say how fast backends are: no other one's answer is cut."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Gateway, Host, eventually
from tests.e2e.raw import Connection, exchange, post
from tests.hostile.scripted import ScriptedBackend

pytestmark = [pytest.mark.e2e, pytest.mark.each_host]

PATH = "/openai/v1/chat/completions"
ATTEMPTS = 30
FIRST_BYTE = 0.2
"""Seconds before which no answer is given up because of the speed of others (`replay.first_byte_seconds`)."""

TIMES_OUT = ("0.05", "0", "-1", "NaN", "1e309")


class PacedBackend(ScriptedBackend):
    """Answers with one token, after as many seconds as it is told, or not at all (None)."""

    seconds: float | None = 0.0
    asked = 0
    """Calls that it has not answered."""

    def _request(self, connection: socket.socket) -> bytes:
        request = super()._request(connection)
        if request and self.seconds is None:
            self.asked += 1
            with suppress(OSError):
                connection.recv(1)
            return b""
        if request and self.seconds is not None:
            time.sleep(self.seconds)
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            message = {"role": "assistant", "content": "a"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()
            self.answers[:] = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)]
        return request


def key_of(client: str) -> str:
    return f"key-of-{client}-3a9f"


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    backend = PacedBackend()
    yield backend
    backend.close()


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    return tmp_path / "usage.jsonl"


@pytest.fixture
def gateway(host: Host, tmp_path: Path, home: Path, backend: PacedBackend, usage: Path) -> Iterator[Gateway]:
    endpoint = {
        "name": "only",
        "url": f"http://127.0.0.1:{backend.port}",
        "key": "key-of-the-backend",
        "virtual_deployments": [{"name": "gpt", "standins": [{"name": "real"}]}],
    }
    config = {
        "aoai": {"endpoints": [endpoint]},
        "clients": [{"name": name, "key": key_of(name)} for name in ("wild", "honest")],
        "replay": {"first_byte_seconds": FIRST_BYTE},
        "usage_log": str(usage),
    }
    gateway = Gateway(host, config, tmp_path, home=home)
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        print(gateway.log)
        gateway.kill()


def ask(client: str, *fields: str, **members: Any) -> bytes:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}], **members}
    return post(PATH, json.dumps(body).encode(), *fields, key=key_of(client))


def honest_answer(gateway: Gateway, backend: PacedBackend) -> int:
    """Have an honest call take its time; gives its status."""
    backend.seconds = 8 * FIRST_BYTE
    return exchange(gateway, ask("honest", max_tokens=200)).status


def test_answers_of_few_tokens_where_many_were_allowed(gateway: Gateway, backend: PacedBackend) -> None:
    backend.seconds = 0.02
    for _ in range(ATTEMPTS):
        assert exchange(gateway, ask("wild", max_tokens=2**31 - 1)).status == 200
    assert honest_answer(gateway, backend) == 200


def test_calls_that_give_up_at_once(gateway: Gateway, backend: PacedBackend, usage: Path) -> None:
    backend.seconds = None
    for number in range(ATTEMPTS):
        seconds = TIMES_OUT[number % len(TIMES_OUT)]
        with Connection(gateway) as client:
            client.send(ask("wild", f"x-stainless-read-timeout: {seconds}", max_tokens=2**31 - 1))
            eventually(lambda n=number: backend.asked > n, "the backend is asked")
    json_lines.wait_for(usage, ATTEMPTS)
    assert honest_answer(gateway, backend) == 200
