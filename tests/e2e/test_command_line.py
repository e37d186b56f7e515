"""The command line as processes: starting, refusing to start, stopping."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.processes import READY_PATH, Process, request
from tests.ports import free_port

DEMO = """\
aoai:
  endpoints:
    - name: here
      simulated:
        deployments:
          gpt-4o: {model: gpt-4o, first_token_seconds: 0, tokens_per_second: 0}
      virtual_deployments:
        - name: gpt-4o
          standins: [{name: gpt-4o}]
clients:
  - {name: Demo, key: a-demonstration}
"""

ADDON = """\
class Greeter:
    def load(self, loader):
        loader.add_option("greeter_word", str, "hello", "What to say.")

    def running(self):
        from mitmproxy import ctx
        print("greeter says", ctx.options.greeter_word)

addons = [Greeter()]
"""


@pytest.fixture
def command(tmp_path: Path, home: Path, processes: list[Process]) -> Callable[..., Process]:
    """Return a function that starts one command line on the demo configuration."""
    (tmp_path / "gateway.yaml").write_text(DEMO)
    (tmp_path / "greeter.py").write_text(ADDON)

    def start(*words: str) -> Process:
        process = Process(
            "aoai-gateway",
            [sys.executable, "-P", "-m", "aoai_gateway.app.cli", *words],
            tmp_path,
            env={"HOME": str(home)},
        )
        processes.append(process)
        return process

    return start


def wait_until_ready(process: Process, port: int) -> None:
    def ready() -> bool:
        try:
            return request(f"http://127.0.0.1:{port}{READY_PATH}", seconds=2).status == 200
        except OSError:
            return False

    process.wait_until(ready, "ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_stops_quietly(command: Callable[..., Process], number: signal.Signals) -> None:
    port = free_port()
    process = command("--config", "gateway.yaml", "--port", str(port))
    wait_until_ready(process, port)
    answer = request(
        f"http://127.0.0.1:{port}/openai/v1/chat/completions",
        "POST",
        headers={"api-key": "a-demonstration"},
        json_body={"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]},
    )
    assert answer.status == 200
    assert "x-gateway-simulated" in answer.headers
    assert answer.json()["choices"][0]["message"]["content"]
    process.send(number)
    assert process.wait() == 0
    assert "Traceback" not in process.log


def test_web_serves_the_same_with_the_inspector(command: Callable[..., Process]) -> None:
    port, web_port = free_port(), free_port()
    process = command(
        "web", "--config", "gateway.yaml", "--port", str(port),
        "--", "--no-web-open-browser", "--web-port", str(web_port), "--set", "web_password=open sesame",
    )  # fmt: skip
    wait_until_ready(process, port)
    process.wait_until(lambda: "Web server listening" in process.stdout, "open")
    assert request(f"http://127.0.0.1:{web_port}/?token=open%20sesame").status == 200
    assert request(f"http://127.0.0.1:{web_port}/flows").status == 403
    assert process.stop() == 0
    assert "Traceback" not in process.log


@pytest.mark.parametrize("host", ["serve", "web"])
def test_addons_are_loaded_and_their_options_known(command: Callable[..., Process], host: str) -> None:
    port = free_port()
    words = ["--set", "greeter_word=good morning"]
    if host == "web":
        words += ["--no-web-open-browser", "--web-port", str(free_port())]
    process = command(host, "--config", "gateway.yaml", "--port", str(port), "-s", "greeter.py", "--", *words)
    wait_until_ready(process, port)
    process.wait_until(lambda: "greeter says good morning" in process.stdout, "greeting")
    assert process.stop() == 0


@pytest.mark.parametrize("host", ["serve", "web"])
def test_an_unknown_option_ends_the_start(command: Callable[..., Process], host: str) -> None:
    words = ["--set", "greeter_wrod=x", "--set", "no_such_thing=1"]
    if host == "web":
        words += ["--no-web-open-browser", "--web-port", str(free_port())]
    process = command(
        host, "--config", "gateway.yaml", "--port", str(free_port()), "-s", "greeter.py", "--", *words
    )
    assert process.wait() in (1, 2)
    assert "no option 'greeter_wrod'; did you mean \"greeter_word\"?" in process.log
    assert "no option 'no_such_thing'" in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("host", ["serve", "web"])
def test_an_addon_that_does_not_load_ends_the_start(
    command: Callable[..., Process], host: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module")
    words = ["--", "--no-web-open-browser", "--web-port", str(free_port())] if host == "web" else []
    process = command(host, "--config", "gateway.yaml", "--port", str(free_port()), "-s", "broken.py", *words)
    assert process.wait() == 1
    assert "broken.py" in process.log
    assert "no_such_module" in process.log


def test_the_simulator_stands_alone(command: Callable[..., Process]) -> None:
    process = command("simulator", "--config", "gateway.yaml")
    process.wait_until(lambda: "control_url" in process.stdout, "ready")
    assert process.stop() == 0
