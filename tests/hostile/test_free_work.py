"""Work that a backend does is counted, also where its client hangs up or does not read."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, eventually
from tests.e2e.raw import exchange, post
from tests.hostile.scripted import ScriptedBackend

PATH = "/openai/v1/chat/completions"
REFUSED = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 28\r\n\r\n{"error":{"code":"invalid"}}'
CLIENTS: dict[str, dict[str, Any]] = {
    "leaving": {"max_requests_per_minute": 3},
    "erring": {"max_requests_per_minute": 3},
    "impatient": {"max_tokens_per_minute": 1000},
}


def key_of(client: str) -> str:
    return f"key-of-{client}-5d21"


@pytest.fixture(scope="module")
def backend() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.close()


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend
) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp(f"free-{request.param}")
    config = {
        "aoai": {
            "endpoints": [{"name": "only", "url": f"http://127.0.0.1:{backend.port}", "key": "backend-key-1"}]
        },
        "clients": [{"name": name, "key": key_of(name), **limits} for name, limits in CLIENTS.items()],
        "usage_log": str(folder / "usage.jsonl"),
    }
    gateway = Gateway(request.param, config, folder, home=folder)
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


def message(client: str, **members: Any) -> bytes:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **members}
    return post(PATH, json.dumps(body).encode(), key=key_of(client))


def leave(gateway: Gateway, data: bytes) -> None:
    """Send a request, and hang up after 30 ms."""
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as connection:
        connection.sendall(data)
        time.sleep(0.03)


def records(gateway: Gateway, client: str) -> list[dict[str, Any]]:
    log = gateway.config_path.parent / "usage.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # The last one may just be written.
    whole = [line for line in lines if line.endswith("\n")]
    return [record for line in whole if (record := json.loads(line)).get("client") == client]


def test_calls_that_hang_up_count(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.answers[:] = [b""] * 40  # it does not answer
    before = len(backend.received)
    threads = [
        threading.Thread(target=leave, args=(gateway, message("leaving", number=n))) for n in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(records(gateway, "leaving")) >= 40, "all were noticed")
    assert len(backend.received) - before <= 3
    backend.answers.clear()
    assert exchange(gateway, message("leaving")).status == 429


def test_calls_that_are_refused_by_the_backend_count(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.answers[:] = [REFUSED] * 50
    before = len(backend.received)
    statuses = [exchange(gateway, message("erring")).status for _ in range(50)]
    backend.answers.clear()
    assert statuses == [400] * 3 + [429] * 47
    assert len(backend.received) - before == 3


def test_tokens_of_an_answer_that_is_not_waited_for_are_not_given_back(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    backend.answers[:] = [b""]
    before = len(backend.received)
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as connection:
        connection.sendall(message("impatient", max_tokens=800))
        eventually(lambda: len(backend.received) > before, "the backend works on it")
    eventually(lambda: records(gateway, "impatient"), "it was noticed")
    assert records(gateway, "impatient")[0]["charged_tokens"] > 800
    backend.answers.clear()
    assert exchange(gateway, message("impatient", max_tokens=300)).status == 429
