"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket
from collections import OrderedDict
from contextlib import ExitStack

_OURS = range(20_000, 32_000)
_CLAIMS = 200
"""How many ports are claimed at a time; servers have long begun to listen on those before them."""
_given: set[int] = set()
_claims: OrderedDict[int, socket.socket] = OrderedDict()


def free_port() -> int:
    """Return a loopback port that nothing listens on, and that stays free until a test's server takes it.

    It is below those that a system gives away by itself (from 32,768 on Linux, from 49,152 elsewhere).
    One of those could become the near end of any connection while the server starts or is stopped. Who
    asks it whether it is ready could even be connected with himself: TCP knows a simultaneous open.

    Other processes of the same run, and other runs on this machine, choose ports meanwhile. So a port is
    claimed until well after its server listens: its number is bound for UDP, which no server here uses.
    """
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that are each as `free_port` says."""
    anywhere = random.SystemRandom()  # processes that were forked must not choose alike
    while True:
        first = anywhere.choice(_OURS[: 1 - count or None])
        with ExitStack() as given_up:
            for port in range(first, first + count):
                if not _claim(port):
                    break
                given_up.callback(_release, port)
            else:
                given_up.pop_all()
                while len(_claims) > _CLAIMS:
                    _claims.popitem(last=False)[1].close()
                return first


def _claim(port: int) -> bool:
    """Claim a port, unless it is in use or was given away before."""
    if port in _given:
        return False
    claim = socket.socket(type=socket.SOCK_DGRAM)
    try:
        claim.bind(("127.0.0.1", port))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return False
    _given.add(port)
    _claims[port] = claim
    return True


def _release(port: int) -> None:
    _given.remove(port)
    _claims.pop(port).close()
