"""A program in a terminal of its own: tmux draws the screen, and types."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.processes import START_SECONDS
from tests.programs import require

COLUMNS, ROWS = 160, 48


def require_tmux() -> None:
    """Skip the test, or fail it in CI, where there is no tmux."""
    require("tmux")


class Terminal:
    """One program, on a tmux server that has nothing else."""

    def __init__(self, command: Sequence[str | Path], folder: Path, env: Mapping[str, str]) -> None:
        self._socket = folder / "tmux"
        set_env = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), *set_env,
            "-c", str(folder), *map(str, command),
        )  # fmt: skip
        # What is left on the screen when the program ends says why.
        self._tmux("set-option", "-g", "remain-on-exit", "on")
        self._tmux("set-option", "-s", "escape-time", "0")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), *words]
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=200,
            env={"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PATH": "/usr/bin:/bin"},
        ).stdout  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """The screen as it is now, without colours."""
        return self._tmux("capture-pane", "-p").split("\n")[:ROWS]

    @property
    def screen(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def await_text(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until something is on the screen."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.screen, re.MULTILINE)):
            assert time.monotonic() < deadline, f"{pattern!r} is not on the screen:\n{self.screen}"
            time.sleep(0.05)
        return found

    def await_gone(self, pattern: str, seconds: float = START_SECONDS) -> None:
        """Wait until something is not on the screen any more."""
        deadline = time.monotonic() + seconds
        while re.search(pattern, self.screen, re.MULTILINE):
            assert time.monotonic() < deadline, f"{pattern!r} is still on the screen:\n{self.screen}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys: a character, or a name such as Enter, Escape, Down."""
        self._tmux("send-keys", *keys)

    def end(self) -> None:
        """Kill the program and its terminal."""
        subprocess.run(
            ["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False, timeout=200
        )
