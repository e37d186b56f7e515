"""The ``gateway.*`` commands in mitmproxy's console, in a pseudo terminal, by its keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.processes import CHECKOUT, READY_PATH, SCRIPTS, Simulator, free_port, request
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration

QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say:Hello"}]}
ROWS, COLUMNS = 50, 160
_STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b[()][A-Z0-9]|[\x0e\x0f]")
_MOVE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]")


class Console:
    """mitmproxy in a terminal of its own; what it draws is kept, without colours and cursor moves."""

    def __init__(self, config: Path, home: Path) -> None:
        self.port = free_port()
        self.first_screen = ""
        self._terminal, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [
                SCRIPTS / "mitmproxy", "-s", CHECKOUT / "addons" / "gateway.py",
                "--set", f"gateway_config={config}",
                "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
            ],
            env={**os.environ, "HOME": str(home), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self._drawn = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 65_536)
            except OSError:
                return
            if not data:
                return
            self._drawn += data

    @property
    def text(self) -> str:
        """What has been drawn since the last keys, without styles; a move of the cursor is a space."""
        plain = _STYLE.sub("", self._drawn.decode(errors="replace"))
        return " ".join(_MOVE.sub(" ", plain).split())

    def await_text(self, text: str, seconds: float = 15) -> None:
        """Wait until something has been drawn; runs of spaces count as one."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert self._process.poll() is None, f"mitmproxy ended\n{self.text[-4000:]}"
            assert time.monotonic() < deadline, f"{text!r} was not drawn\n{self.text[-4000:]}"
            time.sleep(0.05)

    def await_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if request(f"http://127.0.0.1:{self.port}{READY_PATH}", seconds=5).status == 200:
                    return
            except OSError:
                pass
            assert self._process.poll() is None, f"mitmproxy ended\n{self.text[-4000:]}"
            time.sleep(0.05)
        raise AssertionError(f"mitmproxy was not ready\n{self.text[-4000:]}")

    def press(self, keys: str) -> None:
        self._drawn = b""
        os.write(self._terminal, keys.encode())

    def command(self, line: str) -> None:
        """Give a command in the prompt; whatever covers the flow list is closed before."""
        self.press(":")
        self.await_text(":")
        self.press(f"{line}\r")

    def ask(self) -> None:
        url = f"http://127.0.0.1:{self.port}/openai/v1/chat/completions"
        answer = request(url, "POST", headers={"api-key": CLIENT_KEY}, json_body=QUESTION)
        assert answer.status == 200

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)
        os.close(self._terminal)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    simulator = Simulator(SPEC, folder)
    made = None
    try:
        config = folder / "gateway.yaml"
        document = {"admin": {"enabled": False}, **configuration(simulator.urls, simulator.keys)}
        config.write_text(yaml.safe_dump(document))
        made = Console(config, home)
        made.await_ready()
        simulator.fault("429", deployment="gpt-4o-ptu")
        made.ask()
        made.await_text("/openai/v1/chat/completions")
        made.await_text("❌")
        made.first_screen = made.text
        yield made
    finally:
        if made is not None:
            made.stop()
        simulator.kill()


def test_the_flow_list_has_markers(console: Console) -> None:
    assert "🔁" in console.first_screen
    assert "❌" in console.first_screen


def test_explain(console: Console) -> None:
    console.command("gateway.explain @focus")
    console.await_text("attempt 1 failed: 429 RateLimitReached")
    console.await_text("end: ok, 2 attempts, status 200")
    console.press("q")


def test_a_snippet(console: Console) -> None:
    console.command("gateway.snippet python @focus")
    console.await_text('api_key=os.environ["AOAI_GATEWAY_KEY"],')
    console.press("q")


def test_backends(console: Console) -> None:
    console.command("gateway.backends")
    console.await_text("gpt-4o-mini@sweden")
    console.press("q")


def test_a_mistake_is_told(console: Console) -> None:
    console.command("gateway.replay @focus gpt-5")
    console.await_text("Invalid choice.")


def test_a_comparison(console: Console) -> None:
    console.command("gateway.compare @focus gpt-4o-mini gpt-4o-france@france")
    console.await_text("compare/gpt-4o-mini+gpt-4o-france@france")
    console.await_text("200 text/plain")
