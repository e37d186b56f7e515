"""Request bodies: what a call asks for, or the 400 that AOAI would answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.simulator.replies import Whole, invalid_request
from aoai_gateway.simulator.targets import Target

Count = Callable[[str], int]

DEFAULT_MAX_TOKENS = 16
"""What the limiter assumes of a call that sets no max_tokens (observed on chat and completions)."""

MAX_CHOICES = 128
MAX_INPUTS = 2048

IMAGE_TOKENS = 765
"""A 1024×1024 image in high detail; images are counted, not looked at."""

_MAX_TOKENS = {
    "chat/completions": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "embeddings": (),
}
_PROMPT = {
    "chat/completions": "messages",
    "completions": "prompt",
    "responses": "input",
    "embeddings": "input",
}
_STREAM_OPTIONS_SINCE = "2024-09-01"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call asks for. `text` is the whole prompt, `last` the last user message."""

    operation: str
    body: Mapping[str, Any]
    text: str
    last: str
    prompt_tokens: int
    max_tokens: int | None
    choices: int
    best_of: int
    stream: bool
    include_usage: bool
    obfuscate: bool
    function: Mapping[str, Any] | None
    function_named: bool
    inputs: tuple[str, ...] = ()

    @property
    def cost(self) -> int:
        """The limiter's estimate: the prompt and max_tokens for every choice."""
        if self.operation == "embeddings":
            return self.prompt_tokens
        reserved = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return self.prompt_tokens + reserved * max(self.choices, self.best_of)


class _InvalidError(Exception):
    def __init__(self, reply: Whole) -> None:
        self.reply = reply


def read_object(body: bytes) -> dict[str, Any] | Whole:
    """The body as a JSON object, or AOAI's 400."""
    try:
        value = json.loads(body, parse_constant=_not_json)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    return invalid_request(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your"
        " HTTP library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
    )


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_ask(target: Target, body: Mapping[str, Any], count: Count) -> Ask | Whole:
    """Read a call's body; `count` gives the tokens of a text."""
    try:
        return _read(target, body, count)
    except _InvalidError as invalid:
        return invalid.reply


def _read(target: Target, body: Mapping[str, Any], count: Count) -> Ask:
    operation = target.operation
    name = _PROMPT[operation]
    prompt = body.get(name)
    if prompt is None:
        code = "missing_required_parameter"
        raise _InvalidError(invalid_request(f"Missing required parameter: '{name}'.", param=name, code=code))
    inputs: tuple[str, ...] = ()
    if operation == "chat/completions":
        text, last, tokens = _messages(prompt, name, count)
        tokens += 3
    elif operation == "responses":
        text, last, tokens = _response_input(body, prompt, count)
    else:
        inputs = _strings(prompt, name)
        text = "\n".join(inputs)
        last = inputs[-1]
        tokens = sum(map(count, inputs))
    stream = body.get("stream") is True
    options = _stream_options(target, body, stream)
    limit = _max_tokens(operation, body)
    function, named = _forced_function(body)
    choices = _positive(body, "n", MAX_CHOICES) or 1
    if operation == "completions":
        limit = DEFAULT_MAX_TOKENS if limit is None else limit
        choices *= len(inputs)
    return Ask(
        operation,
        body,
        text,
        last,
        tokens,
        limit,
        choices,
        _positive(body, "best_of", MAX_CHOICES) or 1,
        stream,
        options.get("include_usage") is True,
        options.get("include_obfuscation") is not False,
        function,
        named,
        inputs,
    )


def _messages(messages: Any, name: str, count: Count) -> tuple[str, str, int]:
    """Text, last user text and tokens of messages; each message has a framing of three tokens."""
    if not isinstance(messages, list) or not messages:
        raise _InvalidError(invalid_request(f"Invalid '{name}': expected a non-empty array.", param=name))
    texts: list[str] = []
    last = ""
    tokens = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            where = f"{name}[{index}]"
            raise _InvalidError(
                invalid_request(f"Invalid type for '{where}': expected an object.", param=where)
            )
        role = str(message.get("role", message.get("type", "")))
        text, images = _content(message)
        texts.append(f"{role}: {text}")
        tokens += 3 + count(role) + count(text) + IMAGE_TOKENS * images
        if role == "user":
            last = text
    return "\n".join(texts), last, tokens


def _content(message: Mapping[str, Any]) -> tuple[str, int]:
    content = message.get("content")
    if content is None:
        content = message.get("output") or message.get("arguments") or ""
    if isinstance(content, str):
        return content, 0
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return text, sum(part.get("type") in ("image_url", "input_image") for part in parts)


def _response_input(body: Mapping[str, Any], prompt: Any, count: Count) -> tuple[str, str, int]:
    instructions = body.get("instructions")
    instructions = instructions if isinstance(instructions, str) else ""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text, last, tokens = _messages(messages, "input", count)
    return f"{instructions}\n{text}", last, tokens + 3 + count(instructions)


def _strings(prompt: Any, name: str) -> tuple[str, ...]:
    """One string, strings, token ids or arrays of token ids; ids are taken as words of four letters."""
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and 0 < len(prompt) <= MAX_INPUTS:
        if all(isinstance(item, str) for item in prompt):
            return tuple(prompt)
        if _is_tokens(prompt):
            return (_as_text(prompt),)
        if all(_is_tokens(item) for item in prompt):
            return tuple(map(_as_text, prompt))
    raise _InvalidError(
        invalid_request(f"Invalid type for '{name}': expected a string or an array of strings.", param=name)
    )


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _as_text(tokens: list[int]) -> str:
    return "".join(f"{token:04x}"[-4:] for token in tokens)


def _stream_options(target: Target, body: Mapping[str, Any], stream: bool) -> Mapping[str, Any]:
    options = body.get("stream_options")
    if options is None:
        return {}
    if target.date < _STREAM_OPTIONS_SINCE:
        raise _InvalidError(invalid_request("Unrecognized request argument supplied: stream_options"))
    if not stream or not isinstance(options, dict):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _InvalidError(invalid_request(message, param="stream_options"))
    return options


def _max_tokens(operation: str, body: Mapping[str, Any]) -> int | None:
    for name in _MAX_TOKENS[operation]:
        value = _positive(body, name)
        if value is not None:
            return value
    return None


def _positive(body: Mapping[str, Any], name: str, most: int = 10**9) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _InvalidError(
            invalid_request(
                f"Invalid '{name}': expected an integer from 1 to {most}.", param=name, code="invalid_value"
            )
        )
    return value


def _forced_function(body: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """The function that tool_choice forces, in the flat form of responses; and whether it was named."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or not tools or choice in (None, "auto", "none"):
        return None, False
    functions = [
        function
        for tool in tools
        if isinstance(tool, dict) and isinstance(function := tool.get("function", tool), dict)
    ]
    if choice == "required" and functions:
        return functions[0], False
    named = choice.get("function", choice) if isinstance(choice, dict) else None
    wanted = named.get("name") if isinstance(named, dict) else None
    for function in functions:
        if function.get("name") == wanted:
            return function, True
    raise _InvalidError(
        invalid_request(f"Tool choice '{wanted}' not found in 'tools' parameter.", param="tool_choice")
    )
