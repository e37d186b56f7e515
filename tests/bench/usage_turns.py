"""An addon that turns a gateway's counting and records off and on, again and again, for ``usage.py``.

In a turn of `CALLS` calls the gateway counts them for the charts of its status page alone, counts them for
Prometheus, too, or does both and writes their records. Each block has all of `TURNS` once, in random order.
The CPU time that the thread of the event loop takes in each turn is kept. SIGRTMIN begins; the next signal
ends it, after which the gateway counts and writes down all calls, and writes JSON into the file that
``TURNS`` names:

- ``turns``: for each block the seconds of each turn, in the order of `TURNS`.
- ``threads``: the ids of the sinks' threads (gettid(2)), by their names.
- ``calls``: by the turn, how many calls there were.
- ``within``: by the turn, the CPU seconds per call that the gateway took to count and to write down.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mitmproxy import ctx

from aoai_gateway.engine.call import Call
from aoai_gateway.runtime.gateway import Gateway

CALLS = 50
"""Calls of a turn: as many as a gateway under load counts and writes down together."""

NOTHING, AGAIN, COUNTED, ALL = "nothing", "nothing, once more", "counted", "all of it"

TURNS = (NOTHING, AGAIN, COUNTED, ALL)


def uncounted(call: Call) -> None:
    """Count nothing for Prometheus."""


class Turns:
    """Stands in the place of the gateway's ended calls."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._ended, self._sinks = gateway, gateway._ended, gateway.sinks.for_records
        self._random = random.Random(1)
        self._turn, self._left, self._order = "", 0, list[str]()
        self._block: dict[str, float] = {}
        self._blocks: list[list[float]] = []
        self._calls, self._within = dict.fromkeys(TURNS, 0), dict.fromkeys(TURNS, 0.0)
        self.write = self._ended.write
        self.write()
        self._ended._write = self._write_down
        self._begin()

    def add(self, call: Call) -> None:
        """Take a call that has ended."""
        self._ended.add(call)
        self._left -= 1
        if not self._left:
            self.write()
            self._block[self._turn] = time.thread_time() - self._begun
            self._calls[self._turn] += CALLS
            self._begin()

    def _begin(self) -> None:
        if not self._order:
            if self._block:
                self._blocks.append([self._block[turn] for turn in TURNS])
            self._block.clear()
            self._order = self._random.sample(TURNS, len(TURNS))
        self._turn, self._left = self._order.pop(), CALLS
        self._switch(counts=self._turn in (COUNTED, ALL), writes=self._turn == ALL)
        self._begun = time.thread_time()

    def _switch(self, *, counts: bool, writes: bool) -> None:
        vars(self._gateway.metrics).pop("finished", None)
        if not counts:
            vars(self._gateway.metrics)["finished"] = uncounted
        self._gateway.sinks.for_records = self._sinks if writes else {}

    def _write_down(self, calls: Sequence[Call]) -> None:
        begun = time.thread_time()
        self._gateway._write_down(calls)
        self._within[self._turn] += time.thread_time() - begun

    def end(self) -> dict[str, object]:
        """End the turn under way, leave the gateway as it was, and say what was measured."""
        self.write()
        self._calls[self._turn] += CALLS - self._left
        self._ended._write = self._gateway._write_down
        self._switch(counts=True, writes=True)
        return {
            "turns": self._blocks,
            "threads": {
                thread.name: thread.native_id
                for thread in threading.enumerate()
                if thread.name.startswith("usage sink")
            },
            "calls": self._calls,
            "within": {turn: self._within[turn] / max(1, calls) for turn, calls in self._calls.items()},
        }


def running() -> None:
    """Wait for the signals."""
    found = (getattr(addon, "gateway", None) for addon in ctx.master.addons.lookup.values())
    gateway = next(each for each in found if isinstance(each, Gateway))
    ended = gateway._ended

    def begin() -> None:
        turns: Any = Turns(gateway)
        gateway._ended = turns

    def end() -> None:
        turns, gateway._ended = gateway._ended, ended
        assert isinstance(turns, Turns)
        draft = Path(os.environ["TURNS"] + ".draft")
        draft.write_text(json.dumps(turns.end()))
        draft.replace(os.environ["TURNS"])

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGRTMIN, begin)
    loop.add_signal_handler(signal.SIGRTMIN + 1, end)
