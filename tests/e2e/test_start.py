"""Before the gateway is up: never an open proxy; and with a wrong configuration, no client is ever served."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.processes import START_SECONDS, Gateway, Host, Process, Simulator
from tests.e2e.raw import head
from tests.e2e.settings import CLIENT_KEY
from tests.ports import free_port

ADDONS = Path(__file__).parent / "addons"


class Canary:
    """A server that must never be reached."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.reached = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.reached += 1
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary")

    def close(self) -> None:
        # A close alone would not wake the thread up.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


def attempts_to_get_through(port: int) -> list[bytes]:
    """The ways in which a forward proxy is asked for a server at this port."""
    return [
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode(),
        head(f"GET http://127.0.0.1:{port}/ HTTP/1.1", f"api-key: {CLIENT_KEY}", host=f"127.0.0.1:{port}"),
        head(f"GET http://localhost:{port}/health/ready HTTP/1.1", host=f"localhost:{port}"),
        head("GET / HTTP/1.1", f"api-key: {CLIENT_KEY}", host=f"127.0.0.1:{port}"),
        b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2),  # SOCKS 5
    ]


def ask(port: int, data: bytes) -> bytes | None:
    """Send bytes and read what comes until the end; None if no process listens.

    A process that is just starting may listen and have no time for a connection.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), START_SECONDS) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            came = b""
            while more := connection.recv(65536):
                came += more
            return came
    except ConnectionRefusedError:
        return None
    except OSError:
        # It was cut: reset, or closed before all was sent.
        return b""


@pytest.mark.parametrize("host", ["mitmdump"])
def test_mitmdump_is_not_an_open_proxy_before_the_gateway_takes_over(
    start_gateway: Callable[..., Gateway], simulator: Simulator, canary: Canary, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    gateway = start_gateway(
        simulator,
        addons=[ADDONS / "slow_start.py"],
        env={"SLOW_START_UNTIL": str(go)},
        wait=False,
        forked=False,
    )
    ways = attempts_to_get_through(canary.port)
    gateway.wait_until(lambda: ask(gateway.port, ways[0]) is not None, "listening")
    for way in ways * 3:
        answer = ask(gateway.port, way)
        assert answer == b""
    assert not gateway.is_ready()
    go.touch()
    # The listener is replaced now; go on asking until the gateway answers, and once more then.
    rounds = 0
    while rounds < 2:
        rounds += gateway.is_ready()
        for way in ways:
            answer = ask(gateway.port, way)
            assert answer is None or b"canary" not in answer, answer
    assert canary.reached == 0


@pytest.mark.parametrize("mode", ["regular", "socks5", "upstream:http://127.0.0.1:{port}"])
@pytest.mark.parametrize("host", ["mitmdump"])
def test_another_mode_ends_the_process(
    start_gateway: Callable[..., Gateway], simulator: Simulator, canary: Canary, mode: str
) -> None:
    port = free_port()
    spec = mode.format(port=canary.port) + f"@127.0.0.1:{port}"
    options = ["--mode", "reverse:http://unused.invalid", "--mode", spec]
    gateway = start_gateway(simulator, options=options, wait=False, forked=False)
    while gateway.exit_code is None:
        for way in attempts_to_get_through(canary.port):
            assert ask(port, way) in (None, b"")
    assert gateway.exit_code == 1
    assert "reverse mode only" in gateway.log
    assert canary.reached == 0


WRONG = """\
aoai:
  endpoints:
    - name: sweden
      url: ftp://contoso.example/
      key: ${A_KEY_THAT_IS_NOT_SET}
      virtual_deployments:
        - name: gpt-4o
          standins: [{name: gpt-4o, non_streaming_fraction: 2}]
clients:
  - name: Tester
    kee: wrong-config-c0ffee
listen:
  port: many
"""
PROBLEMS = {4: "url", 5: "A_KEY_THAT_IS_NOT_SET", 8: "non_streaming_fraction", 11: "kee", 13: "port"}


@pytest.mark.parametrize("start", ["mitmdump", "serve", "check"])
def test_a_wrong_configuration_serves_no_client(
    start: str, tmp_path: Path, home: Path, processes: list[Process], canary: Canary
) -> None:
    port = free_port()
    process: Process
    if start == "check":
        (tmp_path / "gateway.yaml").write_text(WRONG)
        command = [sys.executable, "-P", "-m", "aoai_gateway.app.cli", "check", tmp_path / "gateway.yaml"]
        process = Process("check", command, tmp_path, env={"HOME": str(home)})
    else:
        host: Host = "mitmdump" if start == "mitmdump" else "serve"
        process = gateway = Gateway(
            host, yaml.safe_load(WRONG), tmp_path, home=home, wait=False, forked=False
        )
        port = gateway.port
    processes.append(process)
    ways = [*attempts_to_get_through(canary.port), head("GET /health/live HTTP/1.1")]
    while process.exit_code is None:
        for way in ways:
            answer = ask(port, way)
            # mitmproxy listens before it reads scripts, and nothing that one of them says can change that.
            assert answer is None or (start == "mitmdump" and answer == b""), answer
    assert canary.reached == 0
    assert process.exit_code == 1
    text = (tmp_path / "gateway.yaml").read_text()
    for line, word in PROBLEMS.items():
        number = line if text == WRONG else _line_of(text, word)
        assert f"gateway.yaml:{number}" in process.log, (number, word)
        assert word in process.log
    assert "c0ffee" not in process.log
    # mitmproxy may exit between accepting a connection and serving it; what asyncio says of that is no news.
    said, _, _ = process.log.partition("Task was destroyed but it is pending!")
    assert "Traceback" not in said


def _line_of(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if word in line)
