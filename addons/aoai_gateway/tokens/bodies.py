"""A decoded request body -> its prompt.

Chat framing is the OpenAI cookbook's ("How to count tokens with tiktoken"): 3 tokens per message, one
more for a name, every string in it, and 3 that prime the reply. Its authors checked it for plain
messages of gpt-3.5, gpt-4 and gpt-4o. For newer models, tool calls in a conversation and the Responses
API nothing is published; the same framing is assumed, and the prompt is not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_gateway.tokens.images import HEADER_BASE64_CHARS
from aoai_gateway.tokens.models import CLAUDE, Family, family_of
from aoai_gateway.tokens.prompt import ENCRYPTED_CHARS_PER_TOKEN, Prompt, add_output_schema, add_tools

REPLY_PRIMING = 3
TOKENS_PER_CALL = 3
"""Framing of a tool call in a conversation, beside its name and its arguments."""

_CHECKED_MESSAGE = frozenset(("role", "content", "name"))
# One token in both encodings; nearly every message has one of them.
ONE_TOKEN_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))


def read_prompt(operation_name: str, body: object, family: Family) -> Prompt:
    """The prompt of a request; members of an unexpected shape are skipped, the backend will complain."""
    prompt = Prompt(_family(operation_name, family))
    if isinstance(body, Mapping):
        match operation_name:
            case "chat.completions":
                _chat(prompt, body)
            case "responses":
                _responses(prompt, body)
            case "completions":
                _plain(prompt, body.get("prompt"))
                prompt.text(body.get("suffix"))
            case "embeddings":
                _plain(prompt, body.get("input"))
            case "messages" | "messages.count_tokens":
                _claude(prompt, body)
            case _:
                prompt.anything(body)
    return prompt


def read_messages(operation_name: str, body: Mapping[str, Any], family: Family, at_most: int) -> list[Prompt]:
    """The prompts that the elements of a chat's ``messages``, or of a Responses ``input``, are on their own.

    One for each element of any type, up to ``at_most``; an empty list for other operations.
    """
    key, add = _ELEMENTS.get(operation_name, ("", None))
    given, family = body.get(key), _family(operation_name, family)
    prompts: list[Prompt] = []
    if add is None or not isinstance(given, list):
        return prompts
    for element in given[:at_most]:
        prompt = Prompt(family, exact=operation_name == "chat.completions" and family.framing_published)
        if isinstance(element, Mapping):
            add(prompt, element)
        prompts.append(prompt)
    return prompts


def is_countable(operation_name: str, model: str | None) -> bool:
    """Whether the encoding of the model's texts is known, so that counting them is no estimating."""
    return _family(operation_name, family_of(model)).encoding_published


def _family(operation_name: str, family: Family) -> Family:
    """What is not known by its name, but answers as Claude does, is one."""
    return CLAUDE if operation_name.startswith("messages") and not family.known else family


def _plain(prompt: Prompt, value: object) -> None:
    """A string, strings, token numbers, or lists of token numbers."""
    if isinstance(value, str):
        prompt.text(value)
    elif isinstance(value, list):
        if value and isinstance(value[0], int):
            # All of one kind, or the service refuses: no look at each of a million numbers.
            prompt.tokens += len(value)
            return
        for item in value:
            if isinstance(item, list):
                prompt.tokens += len(item)
            else:
                prompt.text(item)


def _chat(prompt: Prompt, body: Mapping[str, Any]) -> None:
    prompt.exact = prompt.family.framing_published
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            _message(prompt, message)
    add_tools(prompt, body.get("tools"), body.get("functions"))
    response_format = body.get("response_format")
    if isinstance(response_format, Mapping):
        add_output_schema(prompt, response_format.get("json_schema"))
    prompt.tokens += REPLY_PRIMING


def _message(prompt: Prompt, message: Mapping[str, Any]) -> None:
    prompt.tokens += prompt.family.per_message
    for key, value in message.items():
        match key:
            case "role":
                _role(prompt, value)
            case "content":
                prompt.content(value)
            case "tool_calls" if isinstance(value, list):
                for call in value:
                    _call(prompt, call)
            case "function_call":
                _call(prompt, value)
            case _:
                prompt.text(value)
        if key == "name" and isinstance(value, str):
            prompt.tokens += prompt.family.per_name
        if key not in _CHECKED_MESSAGE and value is not None:
            prompt.exact = False


def _role(prompt: Prompt, value: object) -> None:
    if isinstance(value, str) and value in ONE_TOKEN_ROLES:
        prompt.tokens += 1
    else:
        prompt.text(value)


def _call(prompt: Prompt, call: object) -> None:
    """A call of a function or custom tool; chat nests what Responses has on the item."""
    if not isinstance(call, Mapping):
        return
    inner = call.get("function", call.get("custom", call))
    if isinstance(inner, Mapping):
        prompt.assume(TOKENS_PER_CALL)
        for key in ("name", "arguments", "input"):
            prompt.text(inner.get(key))


def _responses(prompt: Prompt, body: Mapping[str, Any]) -> None:
    prompt.exact = False
    prompt.partial = any(
        body.get(key) is not None for key in ("previous_response_id", "conversation", "prompt")
    )
    if isinstance(instructions := body.get("instructions"), str):
        _message(prompt, {"role": "developer", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        _message(prompt, {"role": "user", "content": given})
    for item in given if isinstance(given, list) else ():
        if isinstance(item, Mapping):
            _item(prompt, item)
    if isinstance(template := body.get("prompt"), Mapping):
        prompt.anything(template.get("variables"))
    add_tools(prompt, body.get("tools"))
    if isinstance(text := body.get("text"), Mapping):
        form = text.get("format")
        if isinstance(form, Mapping) and form.get("type") == "json_schema":
            add_output_schema(prompt, form)
    prompt.tokens += REPLY_PRIMING


def _item(prompt: Prompt, item: Mapping[str, Any]) -> None:
    kind = item.get("type", "message" if "role" in item else "item_reference")
    if kind == "item_reference":
        prompt.partial = True
        return
    prompt.tokens += prompt.family.per_message
    match kind:
        case "message":
            _role(prompt, item.get("role"))
            prompt.content(item.get("content"))
        case "function_call" | "custom_tool_call":
            _call(prompt, item)
        case "function_call_output" | "custom_tool_call_output":
            prompt.content(item.get("output"))
        case _:
            prompt.anything(item)


# --- Claude --------------------------------------------------------------------------------------
#
# Anthropic publishes no tokenizer for its present models, so texts are counted with another vendor's
# encoding, and framing is assumed. The count is never exact; what answers say of their prompts corrects it,
# per deployment. Published are the tokens of an image, and of the instructions that come with tools ("Vision"
# and "Tool use", Anthropic's documentation).

TOOL_INSTRUCTIONS = 346
"""The tokens with ``tool_choice`` auto, for Claude 4; a forced choice has some less."""

CLAUDE_PER_MESSAGE = 4
CLAUDE_PER_CALL = 12
"""A call of a tool, or its result, beside names and contents."""


def _claude(prompt: Prompt, body: Mapping[str, Any]) -> None:
    prompt.exact = False
    _claude_content(prompt, body.get("system"))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            _claude_message(prompt, message)
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        prompt.tokens += TOOL_INSTRUCTIONS
        add_tools(prompt, [_as_function(tool) for tool in tools])


def _claude_message(prompt: Prompt, message: Mapping[str, Any]) -> None:
    prompt.assume(CLAUDE_PER_MESSAGE)
    _claude_content(prompt, message.get("content"))


def _as_function(tool: object) -> object:
    """A tool of the client's own as others write it; any other one as it is."""
    if not isinstance(tool, Mapping) or tool.get("type", "custom") != "custom":
        return tool
    return {**tool, "type": "function", "parameters": tool.get("input_schema")}


def _claude_content(prompt: Prompt, content: object) -> None:
    """A text, or blocks. Results of tools hold blocks, too; iterative, as the client decides how deep."""
    pending = [content]
    while pending:
        match pending.pop():
            case str() as text:
                prompt.text(text)
            case list() as blocks:
                pending.extend(reversed(blocks))
            case Mapping() as block:
                pending.extend(_claude_block(prompt, block))


def _claude_block(prompt: Prompt, block: Mapping[str, Any]) -> tuple[object, ...]:
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
            prompt.image(_claude_image(block.get("source")))
        case "document":
            prompt.text(block.get("title"))
            prompt.text(block.get("context"))
            return _claude_document(prompt, block.get("source"))
        case "tool_result":
            prompt.assume(CLAUDE_PER_CALL)
            return (block.get("content"),)
        case "tool_use":
            prompt.assume(CLAUDE_PER_CALL)
            prompt.text(block.get("name"))
            prompt.anything(block.get("input"))
        case _:
            prompt.anything(block)
    return ()


def _claude_image(source: object) -> object:
    """What tells an image's dimensions."""
    data = source.get("data") if isinstance(source, Mapping) else None
    return f"data:;base64,{data[:HEADER_BASE64_CHARS]}" if isinstance(data, str) else None


def _claude_document(prompt: Prompt, source: object) -> tuple[object, ...]:
    if not isinstance(source, Mapping):
        return ()
    match source.get("type"):
        case "text":
            return (source.get("data"),)
        case "content":
            return (source.get("content"),)
    prompt.file(source.get("data"))
    return ()


_ELEMENTS = {
    "chat.completions": ("messages", _message),
    "responses": ("input", _item),
    "messages": ("messages", _claude_message),
}
"""Operation → the member with the elements of a conversation, and what adds one of them to a prompt."""
