"""The store of several workers when the configuration names none: a Redis or Valkey of their own.

It listens on a Unix socket in a folder that only this user may enter, has no port, and writes nothing to the
disk: it lives and dies with the supervisor. Its end costs no call: it is started again, after a pause that
grows.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError

from aoai_gateway.app.processes import Backoff, end_with_parent
from aoai_gateway.runtime.state_sync import OWN_PREFIX
from aoai_gateway.state.affinity_file import AffinityFileError
from aoai_gateway.state.budget_file import BudgetFileError, read
from aoai_gateway.state.keepers import AffinityKeeper, BudgetKeeper, put_affinity, put_budgets

if TYPE_CHECKING:
    from pathlib import Path

    from aoai_gateway.config.models import Config
    from aoai_gateway.state.budget_file import Entry

logger = logging.getLogger("aoai_gateway.supervisor")

PROGRAMS = ("valkey-server", "redis-server")

START_SECONDS = 10.0
STOP_SECONDS = 5.0

RESTART_SECONDS = 2.0
"""Seconds that a new store may take to answer: the supervisor does nothing else meanwhile."""

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


class Keeper(Protocol):
    """Writes a part of what the workers' own store holds into a file."""

    async def run(self) -> None:
        """Write until cancelled."""

    async def flush(self) -> None:
        """Write what is not written yet."""


class WorkersStore:
    """The server, and what files keep of it: budgets, and affinity. Raises NoStoreError.

    ``folder``: where its socket is; only this user may enter it.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._socket = folder / "store.sock"
        self._log = folder / "store.log"
        self._command = [
            program(),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(self._log)),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        # As they are at the start: what a file says that is named later is not in the store.
        self._file, self._affinity = config.budget_file, config.affinity_path
        self._entries: list[Entry] | None = None
        self._backoff = Backoff()
        self._started: float | None = None

    @property
    def url(self) -> str:
        """How redis-py reaches it."""
        return f"unix://{self._socket}"

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it, and put into it what the files say. Raises NoStoreError."""
        try:
            if self._file is not None and self._entries is None:
                # Before it runs, since the file is written anew from what is in it.
                self._entries = read(self._file)
            self._start_server(seconds)
            if self._entries:
                put_budgets(self.url, OWN_PREFIX, self._entries)
            if self._affinity is not None:
                put_affinity(self.url, OWN_PREFIX, self._affinity)
        except (AffinityFileError, BudgetFileError, RedisError) as error:
            # One without its budgets would let calls pass that are to be refused.
            self.stop()
            raise NoStoreError(str(error)) from None
        self._entries, self._started = None, time.monotonic()

    def look(self, now: float) -> None:
        """Start it again if it has ended, and its pause is over."""
        if self._started is not None:
            said = self._ended()
            if said is None:
                return
            pause = self._backoff.ended(now, now - self._started)
            self._started = None
            logger.error("The workers' store ended (%s); it starts again in %.1f s, empty.", said, pause)
        if now < self._backoff.due:
            return
        began = time.monotonic()
        try:
            self.start(RESTART_SECONDS)
        except NoStoreError as error:
            pause = self._backoff.ended(now + time.monotonic() - began, 0.0)
            logger.error("The workers' store: %s; it is tried again in %.1f s.", error, pause)

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

    def keepers(self) -> list[Keeper]:
        """Make what writes the files."""
        found: list[Keeper] = []
        if self._file is not None:
            found.append(BudgetKeeper(self.url, OWN_PREFIX, self._file))
        if self._affinity is not None:
            found.append(AffinityKeeper(self.url, OWN_PREFIX, self._affinity))
        return found

    @property
    def keeps_files(self) -> bool:
        """Whether there are files to write."""
        return self._file is not None or self._affinity is not None

    # --- the server ------------------------------------------------------------------------------------

    def _start_server(self, seconds: float) -> None:
        """Start the server, and wait so long until it takes connections. Raises NoStoreError."""
        try:
            self._launch()
        except (OSError, subprocess.SubprocessError) as error:
            # A machine that is out of processes or memory now may have some later.
            reason = error.strerror if isinstance(error, OSError) else error
            raise NoStoreError(f"{self._command[0]} could not be started: {reason}") from error
        end = time.monotonic() + seconds
        while not self._listens():
            if self._ended() is not None or time.monotonic() > end:
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

    def _ended(self) -> str | None:
        """Return why the server has ended; None as long as it runs."""
        if self._process is None or self._process.poll() is None:
            return None
        return self._last_words()

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"
