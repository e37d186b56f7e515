"""The messages of a session (a WebSocket) -> what is said in it, and when, as the page shows it.

What comes in many pieces (``….delta``) is one line. What repeats a text that was shown already, as the events
at the end of each part do, is told without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.views.attachments import byte_size
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, mappings, text, word
from aoai_gateway.workbench import child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mitmproxy.http import HTTPFlow

MOST_LINES = 500
"""The last ones are shown."""

LONGEST_TEXT = 20_000
LONGEST_MESSAGE = 4_000
"""Characters of a message that is shown as it came."""


@dataclass(slots=True)
class Line:
    """One message, or several that are pieces of one. ``at``: seconds since the session began."""

    at: float
    by: str
    kind: str
    role: str = ""
    text: str = ""
    data: int = 0
    """Bytes of sound."""
    count: int = 1
    raw: str = ""
    """The message as it came, where it has no text."""


async def session_of(flow: HTTPFlow) -> dict[str, Any] | None:
    """Read the messages of a flow's session; None if the flow is no session."""
    if flow.websocket is None:
        return None
    messages = [(each.from_client, each.timestamp, each.content) for each in flow.websocket.messages]
    size = sum(len(content) for _, _, content in messages)
    found: dict[str, Any] = await child.by_size(size, read_session, flow.request.timestamp_start, messages)
    gone = flow.metadata.get("gateway_messages_gone", 0)
    return found | {"gone": gone if isinstance(gone, int) else 0}


def read_session(began: float, messages: Sequence[tuple[bool, float, bytes]]) -> dict[str, Any]:
    """Return ``lines`` and ``hidden``, the number of earlier ones. A pure function that raises nothing.

    ``messages``: whether the client sent it, its Unix time, and its content.
    """
    lines: list[Line] = []
    seen: set[str] = set()
    for from_client, at, content in messages:
        line = _read(at - began, "client" if from_client else "server", content)
        last = lines[-1] if lines else None
        if last is not None and (last.by, last.kind) == (line.by, line.kind) and line.kind.endswith(".delta"):
            last.text, last.data, last.count = last.text + line.text, last.data + line.data, last.count + 1
            continue
        if last is not None and last.text:
            seen.add(last.text.strip())
        if line.text.strip() in seen:
            line.text = ""
        lines.append(line)
    shown = lines[-MOST_LINES:]
    return {"lines": [_told(line) for line in shown], "hidden": len(lines) - len(shown)}


def _told(line: Line) -> dict[str, Any]:
    return {
        "at_ms": round(1000 * max(0.0, line.at)),
        "by": line.by,
        "kind": line.kind,
        "role": line.role,
        "text": line.text[:LONGEST_TEXT],
        "more": max(0, len(line.text) - LONGEST_TEXT),
        "data": f"sound, {byte_size(line.data)}" if line.data else "",
        "count": line.count,
        "raw": line.raw,
    }


def _read(at: float, by: str, content: bytes) -> Line:
    try:
        message = mapping(decode(content))
    except (Unreadable, RecursionError):
        return Line(at, by, "no JSON", raw=_raw(content))
    kind = word(message.get("type")) or "message"
    line = Line(at, by, kind, role=_role(kind, by, message))
    if "audio" in kind and "transcript" not in kind:
        line.data = _decoded(message.get("delta")) + _decoded(message.get("audio"))
    else:
        line.text = _text(kind, message)
    if not line.data and (not line.text or kind == "error"):
        line.raw = _raw(content)
    return line


def _role(kind: str, by: str, message: Mapping[str, Any]) -> str:
    item = mapping(message.get("item"))
    if "input_audio" in kind:
        return "user"
    if word(item.get("type")) == "function_call_output":
        return "tool"
    return word(item.get("role")) or ("assistant" if by == "server" else "")


def _text(kind: str, message: Mapping[str, Any]) -> str:
    """Find the text of a message: of its item, of a piece of an answer, or of an error."""
    if kind == "error":
        return text(mapping(message.get("error")).get("message"))
    item = mapping(message.get("item"))
    if item:
        return _text_of_item(item)
    for member in ("delta", "transcript", "text", "arguments"):
        if said := text(message.get(member)):
            return said
    session = mapping(message.get("session"))
    return text(session.get("instructions")) if kind == "session.update" else ""


def _text_of_item(item: Mapping[str, Any]) -> str:
    if item.get("name") and "arguments" in item:
        said = text(item.get("arguments"))
        return f"calls {word(item.get('name'))}({said})" if said else ""
    if "output" in item:
        return text(item.get("output"))
    parts = mappings(item.get("content"))
    return "\n".join(filter(None, (text(part.get("text")) or text(part.get("transcript")) for part in parts)))


def _decoded(value: object) -> int:
    """Return how many bytes base64 stands for."""
    return len(value) * 3 // 4 if isinstance(value, str) else 0


def _raw(content: bytes) -> str:
    return content[: 4 * LONGEST_MESSAGE].decode(errors="replace")[:LONGEST_MESSAGE]
