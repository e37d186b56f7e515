"""The simulator as a program."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aoai_simulator import command
from tests.encodings import encodings
from tests.ports import free_ports
from tests.simulator.running import CHAT, KEY, SPEC, Connection

HELLO = b'{"messages":[{"role":"user","content":"hello"}]}'
HANG = {"fault": "hang"}


@contextmanager
def program(*arguments: str, spec: Any = SPEC) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "aoai_simulator", "--spec", "-", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(spec))
        process.stdin.close()
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def test_it_prints_one_line_serves_and_stops_on_sigterm() -> None:
    with program() as (process, ready):
        assert set(ready) == {"urls", "keys", "control_url"}
        with Connection(ready["urls"]["sweden"]) as connection:
            connection.send("POST", CHAT, HELLO, api_key=ready["keys"]["sweden"])
            assert connection.receive().status == 200
            with Connection(ready["control_url"]) as control:
                control.send("POST", "/_simulator/faults", json.dumps(HANG).encode())
                control.receive_head()
            connection.send("POST", CHAT, HELLO, api_key=ready["keys"]["sweden"])
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert time.monotonic() - begin < 50  # the call that hangs would never end
        assert process.stdout
        assert process.stdout.read() == ""


def test_ports_from_a_base_and_one_key_for_all() -> None:
    base = free_ports(3)
    with program("--port-base", str(base), "--key", KEY, "--no-log", "--gzip") as (_, ready):
        assert ready["control_url"] == f"http://127.0.0.1:{base}"
        assert ready["urls"] == {
            "sweden": f"http://127.0.0.1:{base + 1}",
            "france": f"http://127.0.0.1:{base + 2}",
        }
        assert ready["keys"] == {"sweden": KEY, "france": KEY}
        with Connection(ready["control_url"]) as control:
            control.send("GET", "/_simulator/settings")
            _, headers = control.receive_head()
            settings = json.loads(control.receive_body({k.lower(): v for k, v in headers.items()}))
        assert settings["gzip"] is True
        assert settings["log_requests"] is False


def test_the_endpoints_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "aoai:\n  endpoints:\n    - name: here\n      simulated:\n        deployments:\n"
        "          gpt-4o: {model: gpt-4o}\n"
        "clients:\n  - {name: me, key: mine}\n"
    )
    assert list(command.read_endpoints(path, None)) == ["here"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        ("{", "Invalid JSON"),
        ('{"e": {"deployments": {"d": {"modle": "gpt-4o"}}}}', "modle"),
    ],
)
def test_what_is_wrong_with_a_spec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    path = tmp_path / "spec.json"
    if content is not None:
        path.write_text(content)
    assert command.main(["--spec", os.fspath(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("simulator: ")
    assert words in error


def test_a_configuration_without_simulated_endpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "aoai:\n  endpoints:\n    - {name: there, url: https://there.openai.azure.com/, key: k}\n"
        "clients:\n  - {name: me, key: mine}\n"
    )
    assert command.main(["--config", os.fspath(path)]) == 1
    assert "has no simulated endpoint" in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SPEC))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command.main(["--spec", os.fspath(path), "--port-base", str(port)]) == 1
    assert "cannot start" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--colour", "red"])
    assert caught.value.code == 2


def test_prompts_are_counted_as_the_model_does() -> None:
    text = b"Antidisestablishmentarianism, 1234567890!"
    body = b'{"messages":[{"role":"user","content":"' + text + b'"}]}'
    counts = []
    for arguments in (["--count", "bytes"], []):
        with (
            program("--key", KEY, *arguments) as (_, ready),
            Connection(ready["urls"]["sweden"]) as connection,
        ):
            connection.send("POST", CHAT, body, api_key=KEY)
            counts.append(connection.receive().json["usage"]["prompt_tokens"])
    # A message's framing, its role, and the priming of the reply are 3 + 1 + 3 in both ways.
    encoding = encodings().by_name["o200k_base"]
    assert counts == [7 + -(-len(text) // 4), 7 + len(encoding.encode(text.decode()))]
