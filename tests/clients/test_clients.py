"""Client programs of other projects: a plain call, a stream, a loop with a tool, a structured answer."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway
from tests.e2e.settings import CLIENT_KEY

PROGRAMS = Path(__file__).parent / "programs"
AI_SDK = Path(__file__).parent / "node" / "ai-sdk.mjs"
VECTORS = [1536, 1536]


def run(command: list[str | Path], gateway: Gateway, folder: Path) -> dict[str, Any]:
    """Run a client with the gateway's address and a key; return what it printed."""
    done = subprocess.run(
        [*command, gateway.url, CLIENT_KEY],
        cwd=folder,
        # Some look for keys and caches there.
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def is_city(found: Any) -> bool:
    return found.keys() == {"name", "inhabitants"} and type(found["inhabitants"]) is int


def check(found: dict[str, Any]) -> None:
    """Check what each kind of call came to."""
    assert found["plain"]
    assert found["stream"] == found["plain"], "the same prompt has the same answer"
    assert found["called"] == 1
    assert found["tool"]
    assert found["tool"] != found["plain"]
    assert is_city(found["structured"])


@pytest.mark.parametrize(
    ("program", "forms"),
    [
        ("azure_ai_inference", {"chat"}),
        ("langchain_openai", {"chat", "responses"}),
        ("litellm", {"azure", "openai", "anthropic"}),
        ("openai_agents", {"chat", "responses"}),
        ("pydantic_ai", {"chat", "responses"}),
    ],
)
def test_a_python_client(
    gateway: Gateway, clients_python: str, tmp_path: Path, program: str, forms: set[str]
) -> None:
    found = run([clients_python, "-P", PROGRAMS / f"{program}_client.py"], gateway, tmp_path)
    assert found.pop("embeddings", VECTORS) == VECTORS
    assert found.keys() == forms
    for each in found.values():
        check(each)
    assert "Traceback" not in gateway.log


def test_instructor(gateway: Gateway, clients_python: str, tmp_path: Path) -> None:
    found = run([clients_python, "-P", PROGRAMS / "instructor_client.py"], gateway, tmp_path)
    assert found.keys() == {"tools", "json"}
    for each in found.values():
        assert is_city(each["structured"])
        assert each["streamed"] == each["structured"]
        assert each["stream"] > 1
        assert each["several"]
        assert all(map(is_city, each["several"]))


@pytest.mark.node
def test_the_ai_sdk(gateway: Gateway, node: str, tmp_path: Path) -> None:
    found = run([node, AI_SDK], gateway, tmp_path)
    assert found.pop("embeddings") == VECTORS
    assert found.keys() == {"chat", "responses", "azure, v1", "azure, deployments", "anthropic"}
    for each in found.values():
        check(each)
