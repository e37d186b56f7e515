"""Reading files of JSON lines, such as a usage log, while a process is still writing to them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from aoai_gateway.usage.sink import GATHER_SECONDS
from tests.e2e.processes import Answer, eventually


def read(path: Path) -> list[dict[str, Any]]:
    """Return what the lines hold that are complete so far; a file that is not there yet has none.

    A reader may see the half of a write. What does not end with a line feed is still being written.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in written.split(b"\n")[:-1]]


def wait_for(path: Path, count: int, **members: Any) -> list[dict[str, Any]]:
    """Return the lines with these `members` as soon as there are at least so many of them."""

    def enough() -> list[dict[str, Any]]:
        found = [line for line in read(path) if members.items() <= line.items()]
        return found if len(found) >= count else []

    return eventually(enough, f"{count} lines with {members} in {path.name}")  # type: ignore[no-any-return]


def at_rest(path: Path) -> int:
    """Return how many lines there are once those of earlier calls have come, which gather for a moment."""
    before, found = -1, len(read(path))
    while found != before:
        time.sleep(3 * GATHER_SECONDS)
        before, found = found, len(read(path))
    return found


def record_of(path: Path, answer: Answer) -> dict[str, Any]:
    """Wait for the usage record of an answered call: it is written after the answer was delivered."""
    (record,) = wait_for(path, 1, call=answer.headers["x-gateway-call"])
    return record
