"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket
from collections import deque

_OURS = range(20_000, 32_000)
_CLAIMS = 200
"""How many ports are claimed at a time; servers have long begun to listen on those before them."""
_given: set[int] = set()
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a loopback port that nothing listens on, and that stays free until a test's server takes it.

    It is below those that a system gives away by itself (from 32,768 on Linux, from 49,152 elsewhere).
    One of those could become the near end of any connection while the server starts or is stopped. Who
    asks it whether it is ready could even be connected with himself: TCP knows a simultaneous open.

    Other processes of the same run, and other runs on this machine, choose ports meanwhile. So a port is
    claimed until well after its server listens: its number is bound for UDP, which no server here uses.
    """
    anywhere = random.SystemRandom()  # processes that were forked must not choose alike
    while True:
        port = anywhere.choice(_OURS)
        if port in _given:
            continue
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _given.add(port)
        _claims.append(claim)
        if len(_claims) > _CLAIMS:
            _claims.popleft().close()
        return port
