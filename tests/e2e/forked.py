"""Processes that have their modules already: forks of one that imports them once.

Imports are most of what the start of a gateway takes. The fork then runs what its command would have run, in
the same way (`runpy`), with its own words, environment, folder and output. Tests that are about starting use
the commands themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "aoai_gateway.app.host",
        "aoai_simulator.command",
        "aoai_simulator.server",
        "mitmproxy.tools.main",
        "mitmproxy.tools.dump",
        "mitmproxy.tools.web",
        "tests.e2e.preloaded",
    ]
)


class Forked:
    """What is needed of `subprocess.Popen`, for a command ``python -P -m module …`` or ``script …``."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        self._command = command
        # A daemon: should a test forget it, the end of the tests is its end.
        self._process = _forks.Process(
            target=_run, args=(command, cwd, dict(env), stdout, stderr), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """None while it runs, else its exit code."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._command, seconds)
        return code


def _run(command: Sequence[str], cwd: Path, env: dict[str, str], stdout: Path, stderr: Path) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for path, stream, number in ((stdout, sys.stdout, 1), (stderr, sys.stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
        stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[attr-defined]
    match command:
        case [sys.executable, "-P", "-m", module, *words]:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *words]:
            sys.argv = [script, *words]
            runpy.run_path(script, run_name="__main__")
