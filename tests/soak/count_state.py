"""An addon that writes down, twice a second, what the gateway in this process still holds."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

from mitmproxy import ctx

from aoai_gateway.runtime import opened_ahead

opened_ahead.HELD_SECONDS = 3.0  # shorter than a rest, at whose end nothing may be left

FOLDER = Path(os.environ["SOAK_FOLDER"])


def held(gateway: Any) -> dict[str, int]:
    """What must come back to where it began when there are no calls."""
    scheduler = gateway.engine.scheduler
    now = time.monotonic()
    proxyserver = ctx.master.addons.get("proxyserver")
    sockets = sum(
        os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        for name in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{name}")
    )
    return {
        "tasks": len(asyncio.all_tasks()),
        "sockets": sockets,
        "calls": len(gateway.calls),
        "reservations": len(gateway.reservations),
        "open breaks": sum(brk.until > now for _, brk in gateway.engine.breaks.all()),
        "queued": gateway.queued,
        "in flight": len(scheduler._in_flight),
        "bookings": sum(len(c._bookings) for c in scheduler.capacities._capacities.values()),
        "waited for": sum(len(each._pending) for each in scheduler._livenesses.values()),
        "connections": len(proxyserver.connections),
        "opened ahead": sum(map(len, gateway.opened_ahead._held.values())),
        "calls of peers": len(getattr(scheduler, "elsewhere", ())),
        "promises": len(getattr(scheduler, "_promised", ())),
    }


def rss_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


class CountState:
    """Writes a file for this process."""

    def running(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        gateway = ctx.master.addons.get("gatewaylifetime")._gateway
        file = FOLDER / f"{os.getpid()}.json"
        while True:
            await asyncio.sleep(0.5)
            if not gateway.calls:
                gc.collect()
            found = {
                "held": held(gateway),
                "rss": rss_kilobytes(),
                "homes": len(gateway.engine.affinity._homes),
                "at": time.time(),
            }
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps(found))
            draft.replace(file)


addons = [CountState()]
