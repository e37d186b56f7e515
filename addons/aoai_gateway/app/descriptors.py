"""Descriptors of files and sockets: how many there may be, and a word in the log when they run out."""

from __future__ import annotations

import errno
import logging
import math
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from aoai_gateway.config.models import Limits

logger = logging.getLogger(__name__)

WANTED = 65_536
"""The soft limit to which a lower one is raised, as far as the hard one allows."""

FEW = 1_024

SILENT_SECONDS = 60.0
"""Seconds between two messages about one kind of exhaustion."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_limit() -> int:
    """Raise the soft limit of descriptors as far as allowed, and return it."""
    if sys.platform == "win32":  # It has no such limit.
        return WANTED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def warning(limits: Limits, descriptors: int, most: int) -> str | None:
    """Return what is wrong with the number of descriptors; None if there are enough.

    ``most``: the connections for which they are enough.
    """
    if limits.connections is not None and limits.connections > most:
        return (
            f"limits.connections is {limits.connections:,}, but {descriptors:,} open files (ulimit -n) "
            f"are enough for {most:,}; raise the limit, or lower the number"
        )
    if descriptors < FEW and limits.connections is None:
        return f"{descriptors:,} open files (ulimit -n) are enough for {most:,} connections only"
    return None


class Rarely:
    """Logs one line a minute, however often there is cause for it."""

    def __init__(self, level: int = logging.ERROR) -> None:
        self._level = level
        self._told = -math.inf

    def tell(self, text: str, *values: object) -> None:
        """Log a line, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._told >= SILENT_SECONDS:
            self._told = now
            logger.log(self._level, text, *values)


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Have one line a minute and kind logged where descriptors run out, not a traceback for each attempt."""
    before = loop.get_exception_handler()
    told: defaultdict[int, Rarely] = defaultdict(Rarely)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED):
            if before is not None:
                before(loop, context)
            else:
                loop.default_exception_handler(context)
            return
        assert error.errno is not None
        told[error.errno].tell(
            "No more connections can be opened at present: %s. Raise `ulimit -n`, or lower "
            "limits.connections.",
            error.strerror,
        )

    loop.set_exception_handler(handle)
