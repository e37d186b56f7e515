"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket

_OURS = range(20_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nothing listens on, and that stays free until a test's server takes it.

    It is below those that a system gives away by itself (from 32,768 on Linux, from 49,152 elsewhere).
    One of those could become the near end of any connection while the server starts or is stopped. Who
    asks it whether it is ready could even be connected with himself: TCP knows a simultaneous open.
    """
    anywhere = random.SystemRandom()  # somebody else may run these tests on this machine just now
    while True:
        port = anywhere.choice(_OURS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
