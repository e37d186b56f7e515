"""How the gateway refuses a session of messages (a WebSocket), ends one, and refuses a message in one.

Before the handshake is answered, an error is an ordinary answer. After it, it is a message that the client's
SDK knows as an error; where it ends the session, the close code that goes with it follows (RFC 6455 §7.4.1).

==========================  ======  =============================================================
code                        status  when
==========================  ======  =============================================================
upgrade_required            426     a path that is a WebSocket, without its handshake (RFC 6455 §4.2.1)
message_too_large           413     a message over `limits.message_mb`; the session ends, close code 1009
message_not_text            415     a client's binary message: no operation has any; the session ends, close
                                    code 1003
message_malformed           400     a message that is not JSON, or not what the session takes; it goes nowhere
session_expired             408     the session lasted for `limits.session_seconds`, or nothing came for
                                    `limits.session_idle_seconds`; close code 1001
session_moved               503     the gateway ends, so the session does; connect again. Close code 1001
session_disconnected        502     the backend broke the session off; close code 1011
==========================  ======  =============================================================
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aoai_gateway.wire.errors import GatewayError, invalid_target

if TYPE_CHECKING:
    from collections.abc import Mapping

GOING_AWAY, UNSUPPORTED, POLICY_VIOLATION, TOO_BIG, INTERNAL_ERROR = 1001, 1003, 1008, 1009, 1011

_CLOSE_CODES: Mapping[str, int] = {
    "message_too_large": TOO_BIG,
    "message_not_text": UNSUPPORTED,
    "session_expired": GOING_AWAY,
    "session_moved": GOING_AWAY,
    "session_disconnected": INTERNAL_ERROR,
    "internal_error": INTERNAL_ERROR,
}


def close_code(error: GatewayError) -> int:
    """The close code of a session that ends for this; that of a policy for all that is not listed."""
    return _CLOSE_CODES.get(error.code, POLICY_VIOLATION)


def error_message(error: GatewayError, *, with_status: bool) -> str:
    """The message that tells a client of an error in its session.

    In a realtime session it is an event of the server's; in one of responses (``with_status``) it has the
    status and headers that an answer would have had, too (Azure OpenAI, Responses over WebSocket).
    """
    told: dict[str, object] = {"type": "error", "event_id": f"event_gateway_{error.code}"}
    if with_status:
        told = {"type": "error", "status": error.status, "headers": dict(error.headers)}
    return json.dumps({**told, "error": {**error.as_dict(), "event_id": None}})


def upgrade_required() -> GatewayError:
    """426: a session is asked for without a WebSocket's handshake."""
    return GatewayError(
        426,
        "upgrade_required",
        "This path is a WebSocket: connect with ws:// or wss://, and the handshake of RFC 6455, version 13.",
        headers=(("upgrade", "websocket"), ("sec-websocket-version", "13")),
    )


def no_websocket_here() -> GatewayError:
    """400: a path that is no WebSocket is asked to be one."""
    return invalid_target("This path cannot be upgraded to another protocol.")


def message_too_large(limit: int) -> GatewayError:
    """413: a message of more than ``limit`` bytes."""
    return GatewayError(
        413,
        "message_too_large",
        f"The message is larger than this gateway takes ({limit:,} bytes). Send less in one message.",
    )


def message_not_text() -> GatewayError:
    """415: a client's binary message."""
    return GatewayError(415, "message_not_text", "Messages are text, as JSON; audio is base64 in it.")


def message_malformed(message: str) -> GatewayError:
    """400: a message that is not what the session takes. Never quote content in ``message``."""
    return GatewayError(400, "message_malformed", message)


def session_expired(message: str) -> GatewayError:
    """408: the session has lasted long enough, or says nothing."""
    return GatewayError(408, "session_expired", f"{message} Connect again.", type="server_error")


def session_moved() -> GatewayError:
    """503: the gateway ends."""
    return GatewayError(
        503, "session_moved", "The gateway is shutting down. Connect again.", type="server_error"
    )


def session_disconnected() -> GatewayError:
    """502: the backend has broken the session off."""
    return GatewayError(
        502,
        "session_disconnected",
        "The backend broke the session off. Connect again.",
        type="server_error",
    )
