"""Request bodies, JSON or forms: the parameters of a call, or the 400 that AOAI would answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aoai_simulator import models
from aoai_simulator.conversation import Conversation, read_conversation
from aoai_simulator.output_formats import JsonForm, read_form
from aoai_simulator.parameters import Sampling, check_names, check_text, read_sampling
from aoai_simulator.replies import InvalidError, Whole, invalid_request
from aoai_simulator.targets import Target
from aoai_simulator.tokenizer import Tokenizer
from aoai_simulator.tools import Toolbox, read_toolbox

DEFAULT_MAX_TOKENS = 16
"""The limiter's assumption for a call without max_tokens (observed on chat and completions)."""

MAX_INPUTS = 2048

_PROMPT = {
    "chat/completions": "messages",
    "completions": "prompt",
    "responses": "input",
    "embeddings": "input",
}
_STREAM_OPTIONS_SINCE = "2024-09-01"


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request; names in `headers` are looked up in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """The parameters of a call; `model` is the base model of its deployment, `inputs` are those of
    embeddings."""

    operation: str
    body: Mapping[str, Any]
    model: str
    conversation: Conversation
    prompt_tokens: int
    sampling: Sampling
    toolbox: Toolbox
    form: JsonForm | None
    stream: bool
    include_usage: bool
    obfuscate: bool
    inputs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.conversation.text

    @property
    def last(self) -> str:
        """The last user message."""
        return self.conversation.last

    @property
    def reasons(self) -> bool:
        """Whether the model spends reasoning tokens before it answers: always, or because it is asked to."""
        thinking = self.body.get("thinking")
        asked = isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive")
        return models.reasons(self.model) or asked

    @property
    def choices(self) -> int:
        """How many completions there are to be: `n` for every prompt."""
        return self.sampling.choices * (len(self.inputs) if self.operation == "completions" else 1)

    @property
    def cost(self) -> int:
        """The limiter's estimate: the prompt and max_tokens for every choice.

        Claude's counts what is written as it is written, and not max_tokens.
        """
        if self.operation in ("embeddings", "messages"):
            return self.prompt_tokens
        limit = self.sampling.max_tokens
        reserved = DEFAULT_MAX_TOKENS if limit is None else limit
        return self.prompt_tokens + reserved * max(self.choices, self.sampling.best_of)


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


def read_ask(
    target: Target,
    body: Mapping[str, Any],
    model: str,
    tokenizer: Tokenizer,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Ask:
    """Read a call's body; `earlier` are the items of the stored responses that it continues.

    Raises InvalidError.
    """
    operation = target.operation
    name = _PROMPT[operation]
    prompt = body.get(name)
    if prompt is None:
        code = "missing_required_parameter"
        raise InvalidError(f"Missing required parameter: '{name}'.", param=name, code=code)
    check_names(operation, body, v1=target.api_version == "v1")
    sampling = read_sampling(operation, body, model)
    check_text(body)
    inputs: tuple[str, ...] = ()
    if operation == "chat/completions":
        conversation = read_conversation(prompt, name)
    elif operation == "responses":
        instructions = body.get("instructions")
        conversation = read_conversation(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            name,
            instructions=instructions if isinstance(instructions, str) else "",
            earlier=earlier,
        )
    else:
        inputs = _strings(prompt, name)
        conversation = Conversation(list(inputs), inputs[-1])
    if operation == "completions" and sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=DEFAULT_MAX_TOKENS)
    stream = body.get("stream") is True
    options = _stream_options(target, body, stream)
    return Ask(
        operation=operation,
        body=body,
        model=model,
        conversation=conversation,
        prompt_tokens=tokenizer.prompt(operation, body, model),
        sampling=sampling,
        toolbox=read_toolbox(operation, body),
        form=read_form(operation, body, conversation.text),
        stream=stream,
        include_usage=options.get("include_usage") is True,
        obfuscate=options.get("include_obfuscation") is not False,
        inputs=inputs,
    )


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
    raise InvalidError(f"Invalid type for '{name}': expected a string or an array of strings.", param=name)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _as_text(tokens: list[int]) -> str:
    return "".join(f"{token:04x}"[-4:] for token in tokens)


def _stream_options(target: Target, body: Mapping[str, Any], stream: bool) -> Mapping[str, Any]:
    options = body.get("stream_options")
    if options is None:
        return {}
    if target.date < _STREAM_OPTIONS_SINCE:
        raise InvalidError("Unrecognized request argument supplied: stream_options")
    if not stream or not isinstance(options, dict):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise InvalidError(message, param="stream_options")
    return options


_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?')


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: `fields`, and the content and name of a file, if there was one."""

    fields: Mapping[str, Any]
    file: bytes | None = None
    filename: str = ""


def read_sent(request: Request) -> Sent | Whole:
    """Read a body; an empty one sends nothing. Gives AOAI's 400 for one that is neither JSON nor a form."""
    body, content_type = request.body, request.headers.get("content-type", "")
    if not body:
        return Sent({})
    if not content_type.startswith("multipart/form-data"):
        read = read_object(body)
        return read if isinstance(read, Whole) else Sent(read)
    boundary = _BOUNDARY.search(content_type)
    parts = body.split(b"--" + boundary[1].encode()) if boundary else []
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        return invalid_request("Could not parse the multipart form.")
    fields: dict[str, str] = {}
    file: tuple[bytes, str] | None = None
    for part in parts[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        value = value.removesuffix(b"\r\n")
        name, filename = (re.search(rb'; %s="([^"]*)"' % key, head) for key in (b"name", b"filename"))
        if filename is not None:
            file = (value, filename[1].decode(errors="replace"))
        elif name is not None:
            fields[name[1].decode(errors="replace")] = value.decode(errors="replace")
    return Sent(fields, *file) if file is not None else Sent(fields)
