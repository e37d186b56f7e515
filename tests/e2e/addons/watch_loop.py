"""Writes down when the event loop stood still, and what processor time this process used meanwhile.

Times are monotonic seconds. A request with the header ``x-hold-the-loop`` keeps the loop busy for so many
seconds, to see that the watch works.
"""

import asyncio
import json
import os
import time

from mitmproxy.http import HTTPFlow

TICK = 0.002
LOG = open(os.environ["WATCH_LOOP_LOG"], "a", buffering=1)  # noqa: SIM115 - for as long as the process lives


async def watch() -> None:
    last, used = time.monotonic(), time.process_time()
    while True:
        await asyncio.sleep(TICK)
        now, uses = time.monotonic(), time.process_time()
        if now - last > 2 * TICK:
            stall = {"end": now, "seconds": now - last - TICK, "used": uses - used}
            LOG.write(json.dumps(stall) + "\n")
        last, used = now, uses


class Watch:
    def running(self) -> None:
        self.task = asyncio.get_running_loop().create_task(watch())

    def requestheaders(self, flow: HTTPFlow) -> None:
        end = time.process_time() + float(flow.request.headers.get("x-hold-the-loop", "0"))
        while time.process_time() < end:
            pass


addons = [Watch()]
