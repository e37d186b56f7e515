"""The conversation so far: the prompt as a text, the last user message, and the calls since then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aoai_simulator.replies import InvalidError

_CALLS = frozenset(("function_call", "custom_tool_call"))


@dataclass(slots=True)
class Conversation:
    """`called` names the tools that were called since the last user message, in order.

    `answered` tells whether a result has come since then. Hosted tools are named by their type.
    """

    texts: list[str] = field(default_factory=list)
    last: str = ""
    called: list[str] = field(default_factory=list)
    answered: bool = False

    @property
    def text(self) -> str:
        """The whole prompt."""
        return "\n".join(self.texts)

    def user(self, text: str) -> None:
        """A user's message begins a turn."""
        self.last = text
        self.called.clear()
        self.answered = False


def read_conversation(
    messages: Any, name: str, *, instructions: str = "", earlier: Sequence[Any] = ()
) -> Conversation:
    """Read chat messages or input items; raises InvalidError.

    `earlier` are the items of stored responses that come before; they are no part of the text.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidError(f"Invalid '{name}': expected a non-empty array.", param=name)
    conversation = Conversation()
    for message in earlier:
        if isinstance(message, Mapping):
            _add(conversation, message)
    conversation.texts = [instructions] if instructions else []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            where = f"{name}[{index}]"
            raise InvalidError(f"Invalid type for '{where}': expected an object.", param=where)
        _add(conversation, message)
    return conversation


def _add(conversation: Conversation, message: Mapping[str, Any]) -> None:
    role, kind = message.get("role"), str(message.get("type", ""))
    text = _text(message)
    conversation.texts.append(f"{role if role is not None else kind}: {text}")
    if role == "user":
        conversation.user(text)
    elif role in ("tool", "function") or kind.endswith(("_call_output", "_approval_response")):
        conversation.answered = True
    elif kind in _CALLS:
        conversation.called.append(str(message.get("name")))
    elif kind.endswith("_call") or kind == "mcp_approval_request":
        conversation.called.append(kind)
    else:
        conversation.called.extend(_chat_calls(message))


def _chat_calls(message: Mapping[str, Any]) -> list[str]:
    """The names that an assistant's message calls, in `tool_calls` or the older `function_call`."""
    calls = message.get("tool_calls")
    found = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    inner = [call.get("function", call.get("custom")) for call in found] + [message.get("function_call")]
    return [str(call.get("name")) for call in inner if isinstance(call, Mapping)]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        content = message.get("output") or message.get("arguments") or ""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def sent_items(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The items of a response's input as they are kept: a message has a type, and parts."""
    given = body.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    return [_as_kept(item) for item in items if isinstance(item, Mapping)]


def _as_kept(item: Mapping[str, Any]) -> Mapping[str, Any]:
    content = item.get("content")
    if "role" not in item or not isinstance(content, str):
        return item
    return {"type": "message", **item, "content": [{"type": "input_text", "text": content}]}
