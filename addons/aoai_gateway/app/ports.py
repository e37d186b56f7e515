"""Addresses to listen on: can this machine give them, and is it a gateway that has one already."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from typing import NamedTuple

from aoai_gateway.wire.authority import reachable

PROBE_SECONDS = 1.0


class Refusal(NamedTuple):
    """Why an address cannot be listened on."""

    message: str
    in_use: bool = False


def refusal(host: str, port: int) -> Refusal | None:
    """Bind once and let go; None if that works. mitmproxy tells of a busy port only deep in its log."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return Refusal(f"can't listen on {host}: {error.strerror}.")
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            return _refusal(f"{host}:{port}", port, error)
    return None


def _refusal(place: str, port: int, error: OSError) -> Refusal:
    if error.errno == errno.EADDRINUSE:
        other = (port + 1) % 65535 + 1  # after 8080, not 8081: mitmweb has its page there
        return Refusal(
            f"{place} is in use by another process. Stop that one, or choose another port: --port {other}",
            in_use=True,
        )
    if error.errno == errno.EACCES:
        return Refusal(
            f"not allowed to listen on {place}: ports below 1024 need privileges. Choose another: --port 8080"
        )
    return Refusal(f"can't listen on {place}: {os.strerror(error.errno or 0)}.")


def has_gateway(host: str, port: int, *, tls: bool = False) -> bool:
    """Return whether a gateway answers there, as it does to probes; within `PROBE_SECONDS` for each step."""
    near = reachable(host)
    connection: http.client.HTTPConnection
    if tls:
        # Whose certificate it is does not matter: nothing is told to the peer.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(near, port, timeout=PROBE_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(near, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().read(100) == b'{"status": "alive"}'
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
