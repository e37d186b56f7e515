"""mitmproxy's console, by its keys: prompts to read and to edit, and the ``gateway.*`` commands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.processes import (
    CHECKOUT,
    READY_PATH,
    SCRIPTS,
    START_SECONDS,
    Simulator,
    eventually,
    free_port,
    request,
)
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration
from tests.e2e.terminal import Terminal, require_tmux

QUESTION: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief.\nAlways."},
        {"role": "user", "content": "say:Hello"},
    ],
}

EDITOR = f"""\
#!{sys.executable} -P
# Stands in for a person's editor: writes what is to be written in the place of something else.
import pathlib, sys
change, file = pathlib.Path(__file__).with_name("change"), pathlib.Path(sys.argv[-1])
old, new = change.read_text().split("\\n=>\\n")
text = file.read_text()
change.with_name("seen").write_text(text)
file.write_text(text.replace(old, new))
"""


class Console(Terminal):
    """mitmproxy with the gateway in it, in a terminal."""

    def __init__(self, folder: Path, home: Path, simulator: Simulator) -> None:
        self.port = free_port()
        self.simulator = simulator
        self._folder = folder
        editor = folder / "editor"
        editor.write_text(EDITOR)
        editor.chmod(0o755)
        config = folder / "gateway.yaml"
        document = {"admin": {"enabled": False}, **configuration(simulator.urls, simulator.keys)}
        config.write_text(yaml.safe_dump(document))
        command = [
            SCRIPTS / "mitmproxy", "-s", CHECKOUT / "addons" / "gateway.py",
            "--set", f"gateway_config={config}",
            "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
        ]  # fmt: skip
        env = {"HOME": str(home), "LC_ALL": "C.UTF-8", "MITMPROXY_EDITOR": str(editor)}
        paths = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        super().__init__(command, folder, {**paths, **env})

    def is_ready(self) -> bool:
        """Say whether the gateway in it reports to be ready."""
        try:
            return request(f"http://127.0.0.1:{self.port}{READY_PATH}", seconds=5).status == 200
        except OSError:
            return False

    def ask(self) -> None:
        """Make a call."""
        url = f"http://127.0.0.1:{self.port}/openai/v1/chat/completions"
        answer = request(url, "POST", headers={"api-key": CLIENT_KEY}, json_body=QUESTION)
        assert answer.status == 200

    def command(self, line: str) -> None:
        """Give a command in the prompt."""
        self.press(":")
        self.await_text(r"^: ?$")
        self.type(line)
        self.await_text(re.escape(line))
        self.press("Enter")

    def open_prompt(self) -> None:
        """Show the request of the flow in focus."""
        self.press("Enter")
        self.await_text(r"\AFlow Details")
        # It may show another part of a flow, as the last time.
        for _ in range(2):
            if re.search(r"^Prompt +\[m:auto\]", shown := self.screen, re.MULTILINE):
                break
            self.press("Tab")
            eventually(lambda shown=shown: self.screen != shown, "another part of the flow")
        self.await_text(r"^Prompt +\[m:auto\]")

    def close_window(self) -> None:
        """Close what has opened before the flow list."""
        self.press("q")
        self.await_gone("┌")

    def edit(self, old: str, new: str) -> str:
        """Edit the prompt of the flow that is shown; gives what the editor was shown."""
        (self._folder / "change").write_text(f"{old}\n=>\n{new}")
        seen = self._folder / "seen"
        seen.unlink(missing_ok=True)
        self.press("e")
        key = self.await_text(r"│(\w)\) request-body \(Prompt\)").group(1)
        self.press(key)
        eventually(seen.exists, "an editor that has been opened")
        return seen.read_text()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Console]:
    require_tmux()
    folder = tmp_path_factory.mktemp("console")
    simulator = Simulator(SPEC, folder)
    made = None
    try:
        made = Console(folder, home, simulator)
        eventually(made.is_ready, f"a gateway that is ready:\n{made.screen}", START_SECONDS)
        simulator.fault("429", deployment="gpt-4o-ptu")
        made.ask()
        made.await_text("❌")
        yield made
    finally:
        if made is not None:
            made.end()
        simulator.kill()


@pytest.fixture(autouse=True)
def flow_list(console: Console) -> Iterator[None]:
    """Begin and end with the flow list, its first flow in focus."""
    yield
    if console.lines[0].startswith("Flow Details"):
        console.press("q")
    console.await_text(r"\AFlows")
    console.press("g")


def test_the_flow_list_has_the_attempt_beside_its_call(console: Console) -> None:
    call, attempt = console.lines[1:3]
    assert re.search(r"/openai/v1/chat/completions .* 200 .* 🔁", call)
    assert re.search(r"/openai/v1/chat/completions .* 429 .* ❌", attempt)


def test_the_status_line_says_where_it_listens(console: Console) -> None:
    console.await_text(rf"\[reverse:http://aoai-gateway\.invalid\].*\[127\.0\.0\.1:{console.port}\]")
    assert "error" not in console.screen.lower()


def test_a_prompt_is_edited_as_text_and_sent_as_json(console: Console) -> None:
    console.open_prompt()
    console.await_text(r"^# Chat completion with gpt-4o · 2 messages")
    console.await_text(r"^    Be brief\.\n    Always\.")
    shown = console.edit("say:Hello", 'say:He said "no"\n\n    and left.')
    assert "- role: user\n  content: |-\n    say:Hello\n" in shown
    console.await_text(r'^    say:He said "no"\s*\n *\n    and left\.')
    console.press("r")
    console.press("Tab")
    console.await_text(r'^He said "no"\s*\n *\n *and left\.')
    assert [seen["status"] for seen in console.simulator.requests()][-1] == 200


def test_an_edit_that_makes_no_sense_changes_nothing(console: Console) -> None:
    console.open_prompt()
    console.edit("- role: user", "- role: [user")
    console.await_text("Nothing was changed: ")
    console.await_text("^- role: user")


def test_explain(console: Console) -> None:
    console.ask()
    console.command("gateway.explain @focus")
    console.await_text(r"end: ok, \d attempts?, status 200")
    console.close_window()


def test_a_snippet(console: Console) -> None:
    console.command("gateway.snippet python @focus")
    console.await_text(r'api_key=os\.environ\["AOAI_GATEWAY_KEY"\],')
    console.close_window()


def test_backends(console: Console) -> None:
    console.command("gateway.backends")
    console.await_text("gpt-4o-mini@sweden")
    console.close_window()


def test_a_mistake_is_told(console: Console) -> None:
    console.command("gateway.replay @focus gpt-5")
    console.await_text(r"Invalid choice\.")


def test_a_comparison(console: Console) -> None:
    console.command("gateway.compare @focus gpt-4o-mini gpt-4o-france@france")
    console.await_text(r"compare/gpt-4o-mini\+gpt-4o-france@france")
    console.await_text("200 .*text/plain")
