"""No spelling of a deployment's name gets past what is said of that deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Gateway
from tests.e2e.raw import exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import ScriptedBackend

PATHS = {
    "path": "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
    "body": "/openai/v1/chat/completions",
}


@pytest.fixture(scope="module", params=["virtual", "open"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp(f"names-{request.param}")
    backend = ScriptedBackend()
    endpoint = {"name": "only", "url": f"http://127.0.0.1:{backend.port}", "key": "backend-key-1"}
    if request.param == "virtual":
        endpoint["virtual_deployments"] = [
            {"name": "gpt-4o", "standins": [{"name": "real"}]},
            {"name": "o1", "standins": [{"name": "real"}]},
        ]
    limited = {"deployments_allowed": "gpt-4o", "max_requests_per_minute": {"gpt-4o": 2}}
    config = {
        "aoai": {"endpoints": [endpoint]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY, **limited}],
        "usage_log": str(folder / "usage.jsonl"),
    }
    gateway = Gateway("serve", config, folder, home=folder)
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()
        backend.close()


def ask(gateway: Gateway, where: str, name: str) -> tuple[int, bytes]:
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    reply = exchange(gateway, post(PATHS[where].format(name), body, key=CLIENT_KEY))
    return reply.status, reply.body


def test_no_spelling_evades_a_limit_or_an_allow_list(gateway: Gateway) -> None:
    spellings = [("body", "gpt-4o"), ("path", "GPT-4o"), ("body", "Gpt-4O"), ("path", "gPT%2d4o")]
    assert [ask(gateway, *each)[0] for each in spellings] == [200, 200, 429, 429]
    for where in PATHS:
        status, text = ask(gateway, where, "O1")
        assert status == 403, text
    records = json_lines.wait_for(gateway.config_path.parent / "usage.jsonl", 6)
    assert [record["deployment"] for record in records[:4]] == ["gpt-4o"] * 4
