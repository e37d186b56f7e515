"""A real redis-server on a free port of loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.e2e.certificates import Certificates
from tests.ports import free_port
from tests.programs import require

START_SECONDS = 30.0


@dataclass(frozen=True)
class Security:
    """What servers ask of clients, and of each other."""

    tls: Certificates | None = None
    """A client needs a certificate, too."""
    password: str | None = None

    def options(self, port: int) -> list[str]:
        """Return the options of a server or a Sentinel at a port."""
        found = ["--port", str(port)]
        if self.tls is not None:
            found = [
                "--port", "0", "--tls-port", str(port), "--tls-cluster", "yes", "--tls-replication", "yes",
                "--tls-ca-cert-file", str(self.tls.ca), "--tls-cert-file", str(self.tls.certificate),
                "--tls-key-file", str(self.tls.private_key),
            ]  # fmt: skip
        if self.password is not None:
            found += ["--requirepass", self.password]
        return found

    def client(self) -> dict[str, Any]:
        """Return how redis-py connects."""
        if self.tls is None:
            return {"password": self.password}
        return {
            "password": self.password,
            "ssl": True,
            "ssl_ca_certs": str(self.tls.ca),
            "ssl_certfile": str(self.tls.certificate),
            "ssl_keyfile": str(self.tls.private_key),
        }

    def state(self) -> dict[str, Any]:
        """Return what the configuration says of it."""
        found: dict[str, Any] = {}
        if self.tls is not None:
            found["tls"] = {
                "ca": str(self.tls.ca),
                "certificate": str(self.tls.certificate),
                "private_key": str(self.tls.private_key),
            }
        if self.password is not None:
            found["password"] = self.password
        return found


OPEN = Security()


class RedisServer:
    """A redis-server process that keeps nothing on disk; it can be stopped and started again."""

    def __init__(self, folder: Path, *options: str, security: Security = OPEN) -> None:
        self.port = free_port()
        self.security = security
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.state: Any = self.url
        """What the configuration's ``state`` is."""
        if security != OPEN:
            self.state = {"host": f"127.0.0.1:{self.port}"} | security.state()
        self._command = [
            "redis-server", *security.options(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", str(folder), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self._is_stunned = False

    @property
    def is_running(self) -> bool:
        """Whether it answers: it was started, and neither killed nor stunned since."""
        return self.process is not None and not self._is_stunned

    def ask(self, *words: Any) -> Any:
        """Send it one command."""
        with redis.Redis("127.0.0.1", self.port, **self.security.client()) as client:
            return client.execute_command(*words)

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
        self._is_stunned = False

    def stun(self) -> None:
        """Have it hold its connections and answer nothing, until it is woken or killed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self._is_stunned = True

    def wake(self) -> None:
        """Have one that was stunned go on, with all that it knew."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self._is_stunned = False


def require_redis() -> None:
    """Skip the test, or fail it in CI, where there is no redis-server."""
    require("redis-server")
