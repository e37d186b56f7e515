"""The store of several workers when the configuration names none: a Redis or Valkey of their own.

It listens on a Unix socket in a folder that only this user may enter, has no port, and writes nothing to the
disk: it lives and dies with the supervisor.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from aoai_gateway.app.processes import end_with_parent

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("valkey-server", "redis-server")

START_SECONDS = 10.0
STOP_SECONDS = 5.0

INSTALLERS = {
    "apt-get": "apt-get install redis-server",
    "dnf": "dnf install valkey",
    "apk": "apk add valkey",
    "brew": "brew install valkey",
}
"""The command that installs one, by the program that would do it."""


class NoStoreError(Exception):
    """There is no store for several workers; the message says what to do."""


def program() -> str:
    """Return the path of the server. Raises NoStoreError, with the command that installs one."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    install = next((c for name, c in INSTALLERS.items() if shutil.which(name)), "your package manager")
    raise NoStoreError(
        "several workers share their quotas and breaks through Redis or Valkey, and there is neither here. "
        f"Install one ({install}), or name one that runs (state: redis://…)."
    )


class PrivateStore:
    """One server. ``folder``: where its socket is; only this user may enter it."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "store.sock"
        self._log = folder / "store.log"
        self._command = [
            program(),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(self._log)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How redis-py reaches it."""
        return f"unix://{self._socket}"

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it, and wait so long until it takes connections. Raises NoStoreError."""
        try:
            self._launch()
        except (OSError, subprocess.SubprocessError) as error:
            # A machine that is out of processes or memory now may have some later.
            reason = error.strerror if isinstance(error, OSError) else error
            raise NoStoreError(f"{self._command[0]} could not be started: {reason}") from error
        end = time.monotonic() + seconds
        while not self._listens():
            if self.ended() is not None or time.monotonic() > end:
                self.stop()
                raise NoStoreError(f"{self._command[0]} did not start: {self._last_words()}")
            time.sleep(0.01)

    def _launch(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 - the program was looked up, the rest is ours
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A signal for the terminal's process group is the supervisor's to handle.
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),
        )

    def _listens(self) -> bool:
        # The socket is there a moment before it takes connections.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return True

    def ended(self) -> str | None:
        """Return why it has ended; None as long as it runs."""
        if self._process is None or self._process.poll() is None:
            return None
        return self._last_words()

    def stop(self) -> None:
        """End it; what it knows is gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"
