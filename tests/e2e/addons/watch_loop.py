"""Writes down when the event loop stood still, and when prompts were counted; times are monotonic seconds.

A ``tick`` says that everything before it has been written.
"""

import asyncio
import itertools
import json
import os
import time

from aoai_gateway.tokens.counting import Counter

TICK = 0.005
TICKS_TOLD = 10
"""One of so many is written down."""
LOG = open(os.environ["WATCH_LOOP_LOG"], "a", buffering=1)  # noqa: SIM115 - for as long as the process lives

_count = Counter.count_request


def count_request(self, *arguments):
    begun = time.monotonic()
    try:
        return _count(self, *arguments)
    finally:
        LOG.write(json.dumps({"what": "count", "begin": begun, "end": time.monotonic()}) + "\n")


Counter.count_request = count_request


async def watch() -> None:
    last = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(TICK)
        now = time.monotonic()
        if now - last > 2 * TICK:
            LOG.write(json.dumps({"what": "stall", "begin": last + TICK, "end": now}) + "\n")
        if number % TICKS_TOLD == 0:
            LOG.write(json.dumps({"what": "tick", "begin": last, "end": now}) + "\n")
        last = now


class Watch:
    def running(self) -> None:
        self.task = asyncio.get_running_loop().create_task(watch())


addons = [Watch()]
