"""Clients that offer HTTP/2 by an upgrade, and one that looks at framing only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import CLIENT_KEY
from tests.programs import require

CHAT = "/openai/v1/chat/completions"
SAY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say: Hello there"}]}

LONG = {**SAY, "stream": True, "messages": [{"role": "user", "content": "say: " + "many words " * 40}]}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.mark.each_host
def test_the_jdks_client(gateway: Gateway) -> None:
    java = require("java")
    require("javac")
    source = Path(__file__).with_name("Call.java")
    done = run(java, "-Xint", str(source), gateway.url + CHAT, CLIENT_KEY, json.dumps(SAY))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("200 HTTP_1_1 {"), line
        assert "Hello there" in line
    assert "h2c" not in gateway.log


@pytest.mark.each_host
def test_curl_with_http2(gateway: Gateway) -> None:
    curl = require("curl")
    done = run(
        curl, "-sS", "--http2", "-w", "\n%{http_version} %{http_code}", gateway.url + CHAT,
        "-H", f"api-key: {CLIENT_KEY}", "-H", "content-type: application/json", "-d", json.dumps(SAY),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n1.1 200")


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_curl_sees_that_a_stream_was_cut(
    start_gateway: Callable[..., Gateway], simulator: Simulator, version: str
) -> None:
    curl = require("curl")
    gateway = start_gateway(simulator)
    simulator.fault("cut", times=-1)
    try:
        done = run(
            curl, "-sSN", version, gateway.url + CHAT, "-H", f"api-key: {CLIENT_KEY}",
            "-H", "content-type: application/json", "-d", json.dumps(LONG),
        )  # fmt: skip
    finally:
        simulator.clear_faults()
    assert "upstream_disconnected" in done.stdout
    # A body of HTTP/1.0 ends with its connection, so its framing cannot tell.
    assert done.returncode == (18 if version == "--http1.1" else 0)
