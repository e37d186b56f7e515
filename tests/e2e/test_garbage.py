"""A call that is over is gone at once: it leaves nothing that only Python's garbage collector would find.

A collection stops all calls for as long as there are objects to look at, and what waits for one takes memory.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Simulator, eventually
from tests.e2e.raw import Connection
from tests.e2e.settings import CLIENT_KEY

ADDON = Path(__file__).parent / "addons" / "look_for_garbage.py"
CALLS = 3

OURS = ("aoai_gateway", "mitmproxy", "builtins.frame", "builtins.traceback", "builtins.TypeError")


def send(connection: Connection, **members: Any) -> int:
    """Make a call, and return the answer's status."""
    message = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **members}
    body = json.dumps(message).encode()
    connection.send(
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        b"api-key: %s\r\ncontent-length: %d\r\n\r\n%s" % (CLIENT_KEY.encode(), len(body), body)
    )
    return connection.reply().status


KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "a whole answer": ({}, 200),
    "a stream": ({"stream": True}, 200),
    "a failed attempt before": ({}, 200),
    "an unknown deployment": ({"model": "no-such"}, 404),
    "too many tokens": ({"max_tokens": 100_000}, 400),
    "a request that the backend refuses": ({"temperature": "hot"}, 400),
}


@pytest.mark.each_host
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_leaves_no_garbage(
    kind: str, start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    members, status = KINDS[kind]
    file = tmp_path / "garbage.json"
    gateway = start_gateway(
        simulator,
        addons=[ADDON],
        env={"GARBAGE_IN": str(file)},
        workbench=True,
        clients=[{"name": "Tester", "key": CLIENT_KEY, "request_limits": {"max_tokens": 1000}}],
        admin={"port": 0, "token": "a-token-of-the-admin"},
        breaks={"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
    )

    def garbage() -> dict[str, int]:
        file.unlink(missing_ok=True)
        gateway.send(signal.SIGUSR1)
        found: dict[str, int] = json.loads(eventually(lambda: file.exists() and file.read_text(), "a count"))
        return {name: count for name, count in found.items() if name.startswith(OURS)}

    def call() -> int:
        if kind == "a failed attempt before":
            simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=1)
        return send(connection, **members)

    with Connection(gateway) as connection:
        # The first one opens connections, which leave something when they end.
        assert call() == status
        garbage()
        assert [call() for _ in range(CALLS)] == [status] * CALLS
        assert garbage() == {}
