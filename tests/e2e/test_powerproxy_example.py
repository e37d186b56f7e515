"""PowerProxy's configuration, with the Redis that it names out of reach: it starts and serves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.e2e.processes import READY_PATH, Process, Simulator, request
from tests.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "powerproxy.yaml"
KEY = "3f0c2a7d9b5e4168"
DEPLOYMENTS = ("gpt-35-turbo-ptu", "gpt-35-turbo-paygo", "gpt-4o-ptu", "gpt-4o-paygo")
SPEC: dict[str, Any] = {
    "west": {"region": "West Europe", "deployments": {name: {"model": "gpt-4o"} for name in DEPLOYMENTS}}
}


def with_redis_and(simulator: Simulator, port: int, admin_port: int) -> str:
    """Return the example with what differs from one user to the next: Redis, the endpoint, the ports."""
    text = EXAMPLE.read_text()
    for old, new in (
        ("- name: LimitUsage\n", "- {name: LimitUsage, redis: {redis_host: 127.0.0.1, redis_password: p}}\n"),
        ("https://contoso-west.openai.azure.com/", simulator.urls["west"]),
        ("${AOAI_WEST_KEY:-put-the-real-key-here}", simulator.keys["west"]),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text + f"listen: {{port: {port}}}\nadmin: {{port: {admin_port}}}\n"


def test_it_starts_and_serves_with_its_redis_away(
    tmp_path: Path, home: Path, processes: list[Process]
) -> None:
    simulator = Simulator(SPEC, tmp_path)
    processes.append(simulator)
    port = free_port()
    (tmp_path / "config.yaml").write_text(with_redis_and(simulator, port, free_port()))
    gateway = Process(
        "gateway",
        [sys.executable, "-P", "-m", "aoai_gateway.app.cli", "--config", "config.yaml"],
        tmp_path,
        env={"HOME": str(home)},
    )
    processes.append(gateway)

    def state() -> str:
        try:
            return str(request(f"http://127.0.0.1:{port}{READY_PATH}", seconds=5).json()["state"])
        except OSError:
            return ""

    gateway.wait_until(lambda: state().startswith("degraded"), "ready, without its Redis")
    gateway.wait_until(lambda: f"Ready at http://127.0.0.1:{port}" in gateway.log, "said to be ready")
    answer = request(
        f"http://127.0.0.1:{port}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        "POST",
        headers={"api-key": KEY},
        json_body={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50},
    )
    assert answer.status == 200, gateway.log
    assert answer.headers["x-ratelimit-limit-tokens"] == "5000"
    assert "Traceback" not in gateway.log
