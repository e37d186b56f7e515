"""How fast this machine's processor is: bounds on its time were set on one, and are wider on a slower one."""

from __future__ import annotations

import json
import time
from functools import cache

REFERENCE_SECONDS = 0.005
"""What `_some_work` takes where the bounds were set."""

_DOCUMENT = {"messages": [{"role": "user", "content": f"word {number}"} for number in range(400)]}


@cache
def slowness() -> float:
    """Return how many times longer this machine's processor takes for a piece of work, at least 1.

    The shortest of some tries: what else runs here takes turns, which the thread's own time leaves out, and
    its caches, which it does not.
    """
    return max(1.0, min(_seconds() for _ in range(15)) / REFERENCE_SECONDS)


def _seconds() -> float:
    begun = time.thread_time()
    _some_work()
    return time.thread_time() - begun


def _some_work() -> None:
    """Do what a gateway does: read and write JSON, cut bytes, and run plain Python."""
    for _ in range(10):
        text = json.dumps(json.loads(json.dumps(_DOCUMENT)))
        pieces = text.encode().split(b'"')
        sum(len(piece) for piece in pieces if piece != b"role")
