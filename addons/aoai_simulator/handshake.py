"""The handshake of a WebSocket."""

from __future__ import annotations

from collections.abc import Mapping

from wsproto.utilities import generate_accept_token

from aoai_simulator.limits import Headers


def handshake(headers: Mapping[str, str]) -> Headers | None:
    """The fields that accept a handshake (RFC 6455 §4.2.2); None for a request that is no handshake."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        return None
    fields = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", generate_accept_token(key.encode()).decode()),
    ]
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    if "realtime" in offered:
        fields.append(("sec-websocket-protocol", "realtime"))
    return tuple(fields)
