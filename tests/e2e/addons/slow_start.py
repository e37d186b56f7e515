"""Holds the gateway's start until a file appears, so that a test can look at what is there before it."""

import asyncio
import os
from pathlib import Path

from aoai_gateway.app.lifecycle import Lifecycle

GO = Path(os.environ["SLOW_START_UNTIL"])


def may_go() -> bool:
    return GO.exists()


async def start(self: Lifecycle) -> None:
    while not may_go():  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(0.01)
    await _start(self)


_start = Lifecycle.start
Lifecycle.start = start  # type: ignore[method-assign]
