"""Clients that call without a pause, and what they call: fast backends and a slow one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import json_lines
from tests.e2e.processes import Answer, Gateway, eventually
from tests.e2e.replay.stage import Caller, Lane, text_of
from tests.e2e.settings import CLIENT_KEY

_INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
_PACED = {"first_token_seconds": 0.1, "tokens_per_second": 40}

SPEC: dict[str, Any] = {
    "north": {"region": "North Europe", "deployments": {"ptu": {"model": "gpt-4o", **_INSTANT}}},
    "west": {"region": "West Europe", "deployments": {"ptu": {"model": "gpt-4o", **_INSTANT}}},
    "east": {
        "region": "East US 2",
        "deployments": {"spare": {"model": "gpt-4o", **_INSTANT}, "extra": {"model": "gpt-4o", **_INSTANT}},
    },
    "slow": {"region": "UK South", "deployments": {"slow": {"model": "gpt-4o", **_PACED}}},
}
POOLS = {
    "north": {"broken": ["ptu"]},
    "west": {"fast": ["ptu"]},
    "east": {"fast": ["spare", "extra"], "broken": ["spare"]},
    "slow": {"slow": ["slow"]},
}
FAST, SLOW = Lane("fast"), Lane("slow")
BROKEN = Lane("broken")
"""For a break that lasts longer than a test."""

DRAIN_SECONDS = 30
"""For more than any stream takes on a busy machine."""


def client(name: str, **more: Any) -> dict[str, Any]:
    """A client of the configuration."""
    return {"name": name, "key": key_of(name), **more}


def key_of(name: str) -> str:
    """A client's key."""
    return CLIENT_KEY if name == "Tester" else f"key-of-{name}-5d1f"


CLIENTS = [client(name) for name in ("Tester", "Streamer", "Patient", "Caller", "Leaver")]
"""Who counts his records has a name of his own."""


def sections(usage_path: Path) -> dict[str, Any]:
    """The gateway's configuration, beside the endpoints."""
    return {
        "pools": POOLS,
        "clients": CLIENTS,
        "usage_log": str(usage_path),
        "breaks": {"default_seconds": 0.5},
        "drain_seconds": DRAIN_SECONDS,
    }


def records(path: Path, client: str = "Tester") -> list[dict[str, Any]]:
    """The usage records of a client."""
    return [record for record in json_lines.read(path) if record["client"] == client]


@contextmanager
def load(gateway: Gateway, lane: Lane, *, workers: int = 4, key: str = CLIENT_KEY) -> Iterator[list[Answer]]:
    """Have clients call without a pause, every other call streaming; gives their answers as they come."""
    over = threading.Event()
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def work(name: int) -> None:
        caller, number = Caller(gateway.port), 0
        try:
            while not over.is_set():
                number += 1
                text = f"worker {name}, call {number}"
                answer = caller.chat(lane, stream=number % 2 == 0, prompt=f"say: {text}", key=key)
                if answer.status == 200:
                    assert text_of(answer) == text
                answers.append(answer)
        except BaseException as error:
            failures.append(error)
        finally:
            caller.close()

    threads = [threading.Thread(target=work, args=[name]) for name in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def more(answers: list[Answer], count: int = 40) -> None:
    """Wait until so many more calls have been answered."""
    wanted = len(answers) + count
    eventually(lambda: len(answers) >= wanted, f"{count} more answers")
