"""Requests to Claude: what a call to Anthropic's Messages API asks for, or the 400 that it would get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_simulator.conversation import Conversation
from aoai_simulator.message_formats import check_schema, read_message_form
from aoai_simulator.replies import InvalidError
from aoai_simulator.requests import Ask
from aoai_simulator.sampling import Sampling
from aoai_simulator.tokenizer import Tokenizer
from aoai_simulator.tools import Mode, Tool, Toolbox

OPERATION = "messages"
COUNT = "messages/count_tokens"

_MODES: Mapping[str, Mode] = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a prompt that its cache breakpoints put into the cache, or that were there."""

    written: int = 0
    read: int = 0


def read_message_ask(body: Mapping[str, Any], model: str, tokenizer: Tokenizer, *, counts: bool) -> Ask:
    """Read a call's body; `counts` for ``count_tokens``, which needs no bound. Raises InvalidError."""
    conversation = _conversation(body)
    limit = body.get("max_tokens")
    if limit is None and not counts:
        raise InvalidError("max_tokens: Field required")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidError("max_tokens: Input should be greater than or equal to 1")
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    if isinstance(budget, int) and isinstance(limit, int) and budget >= limit:
        raise InvalidError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    stops = body.get("stop_sequences")
    return Ask(
        operation=OPERATION,
        body=body,
        model=model,
        conversation=conversation,
        prompt_tokens=tokenizer.prompt(OPERATION, body, model),
        sampling=Sampling(
            max_tokens=limit,
            choices=1,
            best_of=1,
            stop=tuple(filter(None, map(str, stops))) if isinstance(stops, list) else (),
            top_logprobs=None,
            service_tier="standard",
        ),
        toolbox=_toolbox(body),
        form=read_message_form(body),
        stream=body.get("stream") is True,
        include_usage=True,
        obfuscate=False,
    )


def cached_part(body: Mapping[str, Any]) -> str:
    """The prompt's texts up to its last cache breakpoint; empty without any."""
    texts: list[str] = []
    until = 0
    for block in _blocks(body):
        texts.append(_text(block))
        if block.get("cache_control"):
            until = len(texts)
    return "\n".join(texts[:until])


def _blocks(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    listed = messages if isinstance(messages, list) else []
    said = [message.get("content") for message in listed if isinstance(message, Mapping)]
    contents = [body.get("system"), *said]
    tools = body.get("tools")
    found = [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    for content in contents:
        if isinstance(content, str):
            found.append({"type": "text", "text": content})
        elif isinstance(content, list):
            found += [block for block in content if isinstance(block, Mapping)]
    return found


def _conversation(body: Mapping[str, Any]) -> Conversation:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise InvalidError("messages: Field required")
    if not messages:
        raise InvalidError("messages: at least one message is required")
    conversation = Conversation()
    system = body.get("system")
    if system:
        conversation.texts.append(_joined(system))
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role == "system" and not number:
            raise InvalidError(
                'messages: Unexpected role "system". The first message is the user\'s; '
                "instructions before it are the parameter `system`."
            )
        if role not in ("user", "assistant", "system"):
            raise InvalidError(f"messages.{number}.role: Input should be 'user', 'assistant' or 'system'")
        _add(conversation, role, message.get("content"), f"messages.{number}")
    return conversation


def _add(conversation: Conversation, role: str, content: Any, where: str) -> None:
    if not isinstance(content, str | list):
        raise InvalidError(f"{where}.content: Field required")
    text = _joined(content)
    conversation.texts.append(f"{role}: {text}")
    blocks = [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    if role == "assistant":
        conversation.called += [str(block.get("name")) for block in blocks if block.get("type") == "tool_use"]
    elif any(block.get("type") == "tool_result" for block in blocks):
        conversation.answered = True
    elif role == "user":
        conversation.user(text)


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(_text(block) for block in blocks if isinstance(block, Mapping))


def _text(block: Mapping[str, Any]) -> str:
    for name in ("text", "thinking", "content", "description"):
        if isinstance(value := block.get(name), str):
            return value
    return ""


def _toolbox(body: Mapping[str, Any]) -> Toolbox:
    offered = body.get("tools")
    if offered is not None and not isinstance(offered, list):
        raise InvalidError("tools: Input should be a valid list")
    tools = tuple(
        _tool(tool, f"tools.{number}")
        for number, tool in enumerate(offered or ())
        if not isinstance(tool, Mapping) or tool.get("type", "custom") == "custom"
    )
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping):
        return Toolbox(tools, "auto" if tools else "none")
    mode = _MODES.get(str(choice.get("type")))
    if mode is None:
        raise InvalidError("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    parallel = choice.get("disable_parallel_tool_use") is not True
    if mode != "named":
        return Toolbox(tools, mode, parallel)
    chosen = tuple(tool for tool in tools if tool.name == choice.get("name"))
    if not chosen:
        raise InvalidError(f"Tool '{choice.get('name')}' not found in provided tools")
    return Toolbox(chosen, mode, parallel)


def _tool(tool: object, where: str) -> Tool:
    if not isinstance(tool, Mapping) or not isinstance(name := tool.get("name"), str) or not name:
        raise InvalidError(f"{where}.name: Field required")
    schema = tool.get("input_schema")
    if not isinstance(schema, Mapping):
        raise InvalidError(f"{where}.input_schema: Field required")
    if tool.get("strict") is True:
        check_schema(schema, f"{where}.custom")
    return Tool("function", name, "function", {**tool, "parameters": schema})
