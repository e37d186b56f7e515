"""Requests to Claude: what a call to Anthropic's Messages API asks for, or the 400 that it would get.

Structured outputs of Claude: which JSON a message has to be, and the schemas that Anthropic takes.

A format stands in ``output_config``, in calls of the beta in ``output_format``. Schemas of outputs and of
strict tools know fewer words than JSON Schema has
(https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_simulator.conversation import Conversation
from aoai_simulator.output_formats import JsonForm
from aoai_simulator.parameters import Sampling
from aoai_simulator.replies import InvalidError
from aoai_simulator.requests import Ask
from aoai_simulator.schema_rules import all_schemas, complaint
from aoai_simulator.tokenizer import Tokenizer
from aoai_simulator.tools import Mode, Tool, Toolbox

_NUMBER_WORDS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_NOT_SUPPORTED: Mapping[str, tuple[str, ...]] = {
    "integer": _NUMBER_WORDS,
    "number": _NUMBER_WORDS,
    "string": ("maxLength", "minLength"),
    "array": ("maxItems",),
}
_MOST_MIN_ITEMS = 1


def read_message_form(body: Mapping[str, Any]) -> JsonForm | None:
    """Return the form that a call demands of its answer, None for text. Raises InvalidError."""
    where, asked = _asked(body)
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise InvalidError(f"{where}: Input should be a valid dictionary")
    if asked.get("type") != "json_schema":
        raise InvalidError(f"{where}.type: Input should be 'json_schema'")
    schema = asked.get("schema")
    if not isinstance(schema, Mapping):
        raise InvalidError(f"{where}.schema: Field required")
    check_schema(schema, f"{where}.schema")
    return JsonForm(schema, where, where)


def check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Raise InvalidError, which begins with `where`, for a schema that is refused."""
    problem = complaint(schema, strict=False)
    if problem is None:
        problem = next(filter(None, (_refused(part) for _, part in all_schemas(schema))), None)
    if problem is not None:
        raise InvalidError(f"{where}: {problem}")


def _asked(body: Mapping[str, Any]) -> tuple[str, Any]:
    config = body.get("output_config")
    if config is not None and not isinstance(config, Mapping):
        raise InvalidError("output_config: Input should be a valid dictionary")
    if config and config.get("format") is not None:
        return "output_config.format", config["format"]
    return "output_format", body.get("output_format")


def _refused(schema: object) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    types = schema.get("type", ())
    for kind in types if isinstance(types, list | tuple) else [types]:
        if kind == "object" and (problem := _open(schema)) is not None:
            return problem
        words = [word for word in _NOT_SUPPORTED.get(kind, ()) if word in schema]
        if kind == "array" and schema.get("minItems", 0) > _MOST_MIN_ITEMS:
            words.append("minItems")
        if len(words) == 1:
            return f"For '{kind}' type, property '{words[0]}' is not supported"
        if words:
            return f"For '{kind}' type, properties {', '.join(words)} are not supported"
    return None


def _open(schema: Mapping[str, Any]) -> str | None:
    more = schema.get("additionalProperties")
    if more is False:
        return None
    if more is None:
        return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    shown = "true" if more is True else "object"
    return (
        f"For 'object' type, 'additionalProperties: {shown}' is not supported."
        " Please set 'additionalProperties' to false"
    )


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
