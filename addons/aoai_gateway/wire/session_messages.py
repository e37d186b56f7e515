"""The messages of a session (a WebSocket): what quotas, routing and records need of them; and its errors.

Most messages are pieces of audio and text, which pass unread. Of a server only those are decoded that can be
about a response, its usage or the session; a client's are all decoded, since they may name a model. A large
one of a client's is read elsewhere (`runtime.body_reader`).

Names of events are those of Azure OpenAI's realtime reference, v1 and preview.

Before the handshake is answered, an error is an ordinary answer. After it, it is a message that the client's
SDK knows as an error; where it ends the session, the close code that goes with it follows (RFC 6455 §7.4.1).

==========================  ======  =============================================================
code                        status  when
==========================  ======  =============================================================
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
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operations import UNKNOWN
from aoai_gateway.wire.targets import Target
from aoai_gateway.wire.usage import Usage, read_usage, search_answer

LARGE_MESSAGE = 128 * 1024
"""Bytes of a message; one with more is not decoded on the event loop."""

CREATE = "response.create"
CREATED = "response.created"
DONE = "response.done"
ERROR = "error"
LIMITS = "rate_limits.updated"
"""What is left of the backend's own limits."""
REPORTS = ("conversation.item.input_audio_transcription.completed", "session.closed")
"""Messages that report usage beside that of responses."""

SETTINGS = ("session.update", "transcription_session.update", "session.start")
"""Messages with which a client sets a session up; they can name deployments."""

LARGE = Target(UNKNOWN["POST"], "v1")
"""What a large message is read as: JSON of which nothing is known."""

_TOLD = re.compile(
    rb'"(?:response\.(?:created|done|completed|incomplete|failed)|session\.(?:created|updated|closed)'
    rb"|transcription_session\.(?:created|updated)"
    rb'|conversation\.item\.input_audio_transcription\.completed|rate_limits\.updated|error)"'
)
"""What the type of a server's message is if it says anything that counts here."""

_BOUNDS = ("max_output_tokens", "max_response_output_tokens")
"""Members that bound a response; the second one is that of the previews."""

_SEARCHED = 4096
_SETTLED = ("response.completed", "response.incomplete", "response.failed")
"""How a response ends in a session of responses, which has the events of its streams."""

_MODEL_PLACES = (
    ("session", "model"),
    ("session", "input_audio_transcription", "model"),
    ("session", "audio", "input", "transcription", "model"),
    ("response", "model"),
)
"""Where a client's message, or a server's, can name a deployment."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was decoded. ``type``: that of the event, "" without one."""

    type: str
    members: Mapping[str, Any]
    found_usage: Usage | None = None
    """What was found where a large message was searched, and not decoded."""

    @property
    def response_id(self) -> str | None:
        """The id of the response that it is about."""
        found = _inner(self.members, "response").get("id")
        return found if isinstance(found, str) else None

    @property
    def bounded_part(self) -> str | None:
        """Its part that can bound a response, if one of its type has any."""
        if self.type == CREATE:
            return "response"
        return "session" if self.type in SETTINGS else None

    @property
    def _bounds(self) -> list[Any]:
        inner = _inner(self.members, self.bounded_part or "")
        return [inner[name] for name in _BOUNDS if name in inner]

    @property
    def says_bound(self) -> bool:
        """Whether it says how long a response may be, be it without bound ("inf")."""
        return bool(self._bounds)

    @property
    def max_output_tokens(self) -> int | None:
        """The bound of one response, which a request for one or the session's settings can give.

        None: it gives none, or says that there is none. Of two names, which one counts is not known.
        """
        bounds = self._bounds
        if not all(type(bound) is int and bound > 0 for bound in bounds):
            return None
        return max(bounds, default=None)

    @property
    def is_of_transcription(self) -> bool:
        """Whether it sets up a session that writes down what it hears, and has no responses."""
        return "transcription" in self.type or _inner(self.members, "session").get("type") == "transcription"

    @property
    def usage(self) -> Usage | None:
        """The tokens that it reports: of a response, of a transcription, or of a whole session."""
        if self.found_usage is not None:
            return self.found_usage
        inner = _inner(self.members, "response").get("usage")
        return read_usage(inner if inner is not None else self.members.get("usage"))

    @property
    def response_model(self) -> str | None:
        """The model of a response, as the server names it."""
        found = _inner(self.members, "response").get("model")
        return found if isinstance(found, str) and len(found) <= 256 else None

    @property
    def session_model(self) -> str | None:
        """The model of the session, as the server names it."""
        found = _inner(self.members, "session").get("model")
        return found if isinstance(found, str) and len(found) <= 256 else None


def read_told(content: bytes) -> Message | None:
    """Read a server's message; None if it says nothing that counts here."""
    if len(content) > LARGE_MESSAGE:
        return _search_told(content)
    if _TOLD.search(content) is None:
        return None
    try:
        members = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    kind = members.get("type")
    if kind in _SETTLED:
        kind = DONE
    return Message(kind if isinstance(kind, str) else "", members)


def _search_told(content: bytes) -> Message | None:
    """Search a server's large message for the end of a response, and its usage."""
    ends = content[:_SEARCHED] + b"\n" + content[-_SEARCHED:]
    kind = next((name for name in (DONE, *_SETTLED) if b'"%s"' % name.encode() in ends), None)
    if kind is None:
        return None
    found = search_answer(content)
    return Message(DONE, {"response": {"id": found.response_id}}, found.usage)


def read_asked(content: bytes) -> Message:
    """Read a client's message. Raises `GatewayError` (400) if it is no JSON object, or ambiguous."""
    try:
        members = json.loads(content, object_pairs_hook=_once)
    except _TwiceError:
        raise message_malformed("A key occurs more than once in the message.") from None
    except (ValueError, RecursionError):
        raise message_malformed("The message is not JSON.") from None
    if not isinstance(members, dict):
        raise message_malformed("The message is not a JSON object.")
    kind = members.get("type")
    return Message(kind if isinstance(kind, str) else "", members)


class _TwiceError(Exception):
    """A key stands twice, and readers disagree on which of the two counts."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _TwiceError
    return members


def with_models(message: Message, replace: Callable[[str], str]) -> bytes | None:
    """The message with every deployment that it names replaced; None if that changes nothing.

    Raises what ``replace`` raises.
    """
    changes = [
        (holder, name, new) for holder, name, old in _models(message.members) if (new := replace(old)) != old
    ]
    if not changes:
        return None
    for holder, name, new in changes:
        holder[name] = new
    return _dumped(message.members)


def with_bound(message: Message, bound: int, *, preview: bool) -> bytes:
    """The message with the bound of a response, which one of its type can have; ``preview``: in its name."""
    part = message.bounded_part
    assert part is not None
    holder = _inner(message.members, part)
    names = [name for name in _BOUNDS if name in holder] or [_BOUNDS[preview]]
    return _dumped({**message.members, part: {**holder, **dict.fromkeys(names, bound)}})


def _dumped(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def cancel(response: str) -> bytes:
    """The message with which a client cancels a response."""
    return json.dumps({"type": "response.cancel", "response_id": response}).encode()


def _models(members: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for *way, name in _MODEL_PLACES:
        inner: Any = members
        for step in way:
            inner = inner.get(step) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(name), str):
            yield inner, name, inner[name]


def _inner(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = members.get(name)
    return found if isinstance(found, Mapping) else {}


# --- errors in a session ---------------------------------------------------------------------------------

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
