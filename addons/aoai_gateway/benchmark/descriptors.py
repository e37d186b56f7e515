"""Room for as many connections as a run may have at a time."""

from __future__ import annotations

import sys
from contextlib import suppress

if sys.platform != "win32":
    import resource

OTHERS = 64
"""Descriptors that are not connections: files, libraries, the event loop's own."""


def make_room(connections: int) -> int:
    """Raise the limit as far as needed and allowed. Returns how many connections there is room for."""
    if sys.platform == "win32":
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections if soft == resource.RLIM_INFINITY else max(0, min(connections, soft - OTHERS))
