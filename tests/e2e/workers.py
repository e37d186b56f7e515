"""A gateway of two workers, with its status page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.processes import Gateway, Simulator, eventually, request
from tests.e2e.settings import configuration

LIMIT = 20_000
"""Tokens per minute of the clients `crowd` and `worker`, each."""


def key_of(client: str) -> str:
    return f"key-of-{client}-66e1"


def runs(pid: int) -> bool:
    """Whether there is a process of this id that has not ended."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


class Workers(Gateway):
    """Two workers and their supervisor."""

    def _command(self, scripts: Any) -> list[str | Path]:
        command = super()._command(scripts)
        return [*command[:-1], "--workers", "2", "--"]

    @property
    def admin_url(self) -> str:
        (found,) = re.findall(r"Status page at (http://\S+)/", self.log)
        return str(found)

    def status(self) -> dict[str, Any]:
        return dict(request(f"{self.admin_url}/api/status").json())

    def both_ready(self) -> bool:
        return bool(self.ready_pids())

    def ready_pids(self) -> list[int]:
        """The workers' ids once both are ready; before, none."""
        try:
            workers = self.status()["workers"]
        except (KeyError, ValueError, OSError):
            return []
        ready = [worker["pid"] for worker in workers if worker["status"] == "ready"]
        return ready if len(ready) == 2 else []

    def pids(self) -> list[int]:
        """The same, waited for: one that is about to come back has no id yet."""
        return list(eventually(self.ready_pids, "both are ready"))


@contextmanager
def workers(simulator: Simulator, folder: Path, home: Path, **sections: Any) -> Iterator[Workers]:
    clients = [
        {"name": "team", "key": key_of("team")},
        {"name": "crowd", "key": key_of("crowd"), "max_tokens_per_minute": LIMIT},
        {"name": "worker", "key": key_of("worker"), "max_tokens_per_minute": LIMIT},
    ]
    sections = {"admin": {"port": 0}, "clients": clients, "usage_log": str(folder / "usage.jsonl")} | sections
    config = configuration(simulator.urls, simulator.keys, **sections)
    gateway = Workers("serve", config, folder, home=home, wait=False)
    try:
        gateway.wait_until(gateway.both_ready, "ready")
        yield gateway
    finally:
        gateway.kill()
        print(gateway.log)
