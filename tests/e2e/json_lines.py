"""Reading files of JSON lines, such as a usage log, while a process is still writing to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.processes import READY_PATH, Answer, Gateway, eventually


def read(path: Path) -> list[dict[str, Any]]:
    """Return what the lines hold that are complete so far; a file that is not there yet has none.

    A reader may see the half of a write. What does not end with a line feed is still being written.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in written.split(b"\n")[:-1]]


def of_calls(path: Path) -> list[dict[str, Any]]:
    """Return those of calls, of a usage log.

    What is refused before it becomes a call is told at once, and how often it came, a minute later.
    """
    return [line for line in read(path) if line["call"] is not None]


def wait_for(path: Path, count: int, **members: Any) -> list[dict[str, Any]]:
    """Return the lines with these `members` as soon as there are at least so many of them."""

    def enough() -> list[dict[str, Any]]:
        found = [line for line in read(path) if members.items() <= line.items()]
        return found if len(found) >= count else []

    return eventually(enough, f"{count} lines with {members} in {path.name}")  # type: ignore[no-any-return]


def record_of(path: Path, answer: Answer) -> dict[str, Any]:
    """Wait for the usage record of an answered call: it is written after the answer was delivered."""
    (record,) = wait_for(path, 1, call=answer.headers["x-gateway-call"])
    return record


def caught_up(path: Path, gateway: Gateway, key: str) -> int:
    """Return how many lines of calls there are once those of all earlier ones have come.

    They come in the order in which calls end, so one more call is made, which is refused.
    """
    eventually(lambda: gateway.request("GET", READY_PATH).json()["calls"] == 0, "no call is under way")
    body = {"model": "no-such-deployment", "messages": []}
    record_of(path, gateway.request("POST", "/openai/v1/chat/completions", key=key, json_body=body))
    return len(of_calls(path))
