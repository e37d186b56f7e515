"""A real redis-server on a free port of loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from tests.ports import free_port
from tests.programs import require

START_SECONDS = 30.0


class RedisServer:
    """A redis-server process that keeps nothing on disk; it can be stopped and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", str(folder), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with empty memory, and wait until it takes connections."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("redis-server did not start")

    def stop(self) -> None:
        """Kill it, as a crash would; what it knew is gone."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def require_redis() -> None:
    """Skip the test, or fail it in CI, where there is no redis-server."""
    require("redis-server")
