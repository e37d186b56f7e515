"""A request to Claude (Anthropic's Messages API) -> its prompt.

Anthropic publishes no tokenizer for its present models, so texts are counted with another vendor's encoding,
and framing is assumed. The count is never exact; what answers say of their prompts corrects it, per
deployment. Published are the tokens of an image, and of the instructions that come with tools ("Vision" and
"Tool use", Anthropic's documentation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_gateway.tokens.images import HEADER_BASE64_CHARS
from aoai_gateway.tokens.prompt import ENCRYPTED_CHARS_PER_TOKEN, Prompt, add_tools

TOOL_INSTRUCTIONS = 346
"""The tokens with ``tool_choice`` auto, for Claude 4; a forced choice has some less."""

PER_MESSAGE = 4
PER_CALL = 12
"""A call of a tool, or its result, beside names and contents."""


def add_claude(prompt: Prompt, body: Mapping[str, Any]) -> None:
    """Add a whole request."""
    prompt.exact = False
    _content(prompt, body.get("system"))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            add_message(prompt, message)
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        prompt.tokens += TOOL_INSTRUCTIONS
        add_tools(prompt, [_as_function(tool) for tool in tools])


def add_message(prompt: Prompt, message: Mapping[str, Any]) -> None:
    """Add one message."""
    prompt.assume(PER_MESSAGE)
    _content(prompt, message.get("content"))


def _as_function(tool: object) -> object:
    """A tool of the client's own as others write it; any other one as it is."""
    if not isinstance(tool, Mapping) or tool.get("type", "custom") != "custom":
        return tool
    return {**tool, "type": "function", "parameters": tool.get("input_schema")}


def _content(prompt: Prompt, content: object) -> None:
    """A text, or blocks. Results of tools hold blocks, too; iterative, as the client decides how deep."""
    pending = [content]
    while pending:
        match pending.pop():
            case str() as text:
                prompt.text(text)
            case list() as blocks:
                pending.extend(reversed(blocks))
            case Mapping() as block:
                pending.extend(_block(prompt, block))


def _block(prompt: Prompt, block: Mapping[str, Any]) -> tuple[object, ...]:
    """Add one block. Returns the contents in it that are still to be added."""
    match block.get("type"):
        case "text":
            return (block.get("text"),)
        case "thinking":
            return (block.get("thinking"),)
        case "redacted_thinking":
            data = block.get("data")
            prompt.assume(len(data) // ENCRYPTED_CHARS_PER_TOKEN if isinstance(data, str) else 0)
        case "image":
            prompt.image(_image(block.get("source")))
        case "document":
            prompt.text(block.get("title"))
            prompt.text(block.get("context"))
            return _document(prompt, block.get("source"))
        case "tool_result":
            prompt.assume(PER_CALL)
            return (block.get("content"),)
        case "tool_use":
            prompt.assume(PER_CALL)
            prompt.text(block.get("name"))
            prompt.anything(block.get("input"))
        case _:
            prompt.anything(block)
    return ()


def _image(source: object) -> object:
    """What tells an image's dimensions."""
    data = source.get("data") if isinstance(source, Mapping) else None
    return f"data:;base64,{data[:HEADER_BASE64_CHARS]}" if isinstance(data, str) else None


def _document(prompt: Prompt, source: object) -> tuple[object, ...]:
    if not isinstance(source, Mapping):
        return ()
    match source.get("type"):
        case "text":
            return (source.get("data"),)
        case "content":
            return (source.get("content"),)
    prompt.file(source.get("data"))
    return ()
