"""Tokens that anybody can make up take nothing from the users whose tokens are real."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, eventually
from tests.e2e.raw import exchange, head
from tests.hostile.scripted import OK, ScriptedBackend

pytestmark = pytest.mark.e2e

PATH = "/openai/v1/chat/completions"
REAL = "eyJ0eXAiOiJKV1QifQ.eyJvaWQiOiJyZWFsIn0.c2lnbmF0dXJl"
REFUSED = b"HTTP/1.1 401 x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PER_MINUTE = 3


@pytest.fixture(scope="module")
def backend() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.close()


@pytest.fixture(params=["serve", "mitmdump"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path, backend: ScriptedBackend) -> Iterator[Gateway]:
    url = f"http://127.0.0.1:{backend.port}"
    config = {
        "aoai": {"endpoints": [{"name": "only", "url": url}]},
        "clients": [
            {
                "name": "Everybody",
                "uses_entra_id_auth": True,
                "verify": False,
                "max_requests_per_minute": PER_MINUTE,
                "max_tokens_per_minute": 2000,
            }
        ],
    }
    gateway = Gateway(request.param, config, tmp_path, home=tmp_path)
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


def call(token: str) -> bytes:
    body = json.dumps({"model": "gpt-4o", "max_tokens": 500, "messages": []}).encode()
    fields = (
        f"Authorization: Bearer {token}",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
    )
    return head(f"POST {PATH} HTTP/1.1", *fields) + body


def test_made_up_tokens_hold_nothing_while_azure_decides(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert exchange(gateway, call(REAL)).status == 200
    before = len(backend.received)
    backend.answers[:] = [b""] * 10  # it does not answer
    with ExitStack() as open_calls:
        for n in range(10):
            connection = socket.create_connection(("127.0.0.1", gateway.port), 10)
            open_calls.enter_context(connection)
            connection.sendall(call(f"eyJ0eXAiOiJKV1QifQ.eyJvaWQiOiIxIn0.made{n}"))
        eventually(lambda: len(backend.received) == before + 10, "they wait for the backend")
        backend.answers.clear()
        assert exchange(gateway, call(REAL)).status == 200


def test_refused_tokens_count_against_no_client(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.answers[:] = [REFUSED] * 10
    made_up = [
        exchange(gateway, call(f"eyJ0eXAiOiJKV1QifQ.eyJvaWQiOiIxIn0.made{n}")).status for n in range(10)
    ]
    assert made_up == [401] * 10
    # A real one counts from the first call on.
    backend.answers[:] = [OK] * 10
    assert [exchange(gateway, call(REAL)).status for _ in range(PER_MINUTE + 1)] == [200] * PER_MINUTE + [429]
