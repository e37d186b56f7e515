"""A call as code: what to paste to make it again, with an official SDK or curl, against this gateway.

The key comes from the environment variable `KEY_VARIABLE`; no secret is ever in a snippet. What the SDKs send
by themselves is left out, other headers of the client are kept.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.dialects import ANTHROPIC
from aoai_gateway.wire.errors import LAST_DATED, invalid_body
from aoai_gateway.wire.operations import EMBEDDINGS, MODELS
from aoai_gateway.wire.secrets import SECRET_HEADERS, SECRET_PARAMETERS
from aoai_gateway.wire.targets import Target, parse_target

KEY_VARIABLE = "AOAI_GATEWAY_KEY"
"""The environment variable that a snippet takes its key from."""

WIDTH = 100
"""Columns up to which a list or an object stays on one line."""

DEEPEST = 24
"""Levels that are indented; else a thousand brackets would make blanks of most of the code."""

_SDKS_OWN = re.compile(
    r"host|connection|content-.*|accept.*|user-agent|x-stainless-.*|transfer-encoding|expect|idempotency-key"
    r"|anthropic-version",
    re.IGNORECASE,
)

_KEYWORDS = {
    "chat.completions": """
        audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
        messages metadata modalities model n parallel_tool_calls prediction presence_penalty prompt_cache_key
        reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options
        temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
    """,
    "completions": """
        best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed
        stop stream stream_options suffix temperature top_p user
    """,
    "embeddings": "dimensions encoding_format input model user",
    "messages": """
        cache_control container inference_geo max_tokens messages metadata model output_config service_tier
        stop_sequences stream system thinking tool_choice tools
    """,
    "responses": """
        background conversation include input instructions max_output_tokens max_tool_calls metadata model
        parallel_tool_calls previous_response_id prompt prompt_cache_key reasoning safety_identifier
        service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p
        truncation user
    """,
}
KEYWORDS: Mapping[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _KEYWORDS.items()}
"""What the Python SDK takes as a named argument; anything else goes into ``extra_body``."""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. ``address``: of the gateway, such as ``http://127.0.0.1:8080``."""

    address: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def target(self) -> Target:
        """What it asks for. Raises GatewayError when that is none of Azure OpenAI's."""
        return parse_target(self.method, self.path)

    def document(self) -> dict[str, Any]:
        """Decode the body, with the deployment as ``model``. Raises GatewayError."""
        target = self.target
        if target.operation.family == MODELS.name:
            return {}
        if not target.operation.has_prompt:
            raise invalid_body("Only calls with a prompt can be written as code.")
        content_type = next((v for n, v in self.headers if n.lower() == "content-type"), None)
        parsed = dict(parse_body(target, content_type, self.body).parsed)
        if target.deployment is not None:
            parsed.pop("model", None)
            return {"model": target.deployment, **parsed}
        return parsed

    @property
    def extra_headers(self) -> dict[str, str]:
        """What the client has sent beyond what an SDK sends by itself."""
        return {
            name: value
            for name, value in self.headers
            if not _SDKS_OWN.fullmatch(name) and name.lower() not in SECRET_HEADERS
        }

    @property
    def extra_query(self) -> dict[str, str]:
        """Its query, but for the api-version of the classic API and for secrets."""
        version = {"api-version"} if self.target.api == "classic" else set()
        pairs = parse_qsl(self.path.partition("?")[2], max_num_fields=64)
        return {n: v for n, v in pairs if n not in version and n.lower() not in SECRET_PARAMETERS}


def _without_sdks_own(target: Target, body: dict[str, Any]) -> dict[str, Any]:
    """Leave out what an SDK asks for by itself, and treats otherwise when its caller asks for it.

    Embeddings travel as base64, and are numbers again when the SDK gives them out; but a call that names
    ``encoding_format`` gets the text.
    """
    if target.operation is EMBEDDINGS and body.get("encoding_format") == "base64":
        return {name: value for name, value in body.items() if name != "encoding_format"}
    return body


@dataclass(frozen=True, slots=True)
class _Sdk:
    """A vendor's packages for one form of its API: their names, and how a client in them is made.

    ``is_default``: whether the npm package exports the client by default; ``python_names`` and
    ``npm_names``: of what says where the gateway is, and of the api-version, where there is one.
    """

    python: str
    npm: str
    name: str
    base: str
    python_names: tuple[str, ...]
    npm_names: tuple[str, ...]
    is_default: bool = True

    def where(self, request: Request, names: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return what a client is made with, by these names."""
        version = request.target.api_version or LAST_DATED
        return list(zip(names, (request.address + self.base, version), strict=False))


_SDKS: Mapping[str, _Sdk] = {
    "v1": _Sdk("openai", "openai", "OpenAI", "/openai/v1/", ("base_url",), ("baseURL",)),
    "classic": _Sdk(
        "openai",
        "openai",
        "AzureOpenAI",
        "",
        ("azure_endpoint", "api_version"),
        ("endpoint", "apiVersion"),
        is_default=False,
    ),
    "anthropic": _Sdk(
        "anthropic", "@anthropic-ai/sdk", "Anthropic", ANTHROPIC.base, ("base_url",), ("baseURL",)
    ),
}
"""By the form of the API."""


# --- values ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Literals:
    """How a language writes values. A text is a literal that Python and JavaScript read alike.

    ``braces``: of an object on one line; ``scalar`` writes what is no text, list or object, and ``lines``
    a text of several lines as several literals, with the indents of what is inside, and of its end.
    """

    step: str
    braces: tuple[str, str]
    key: Callable[[str], str]
    scalar: Callable[[Any], str]
    lines: Callable[[str, str, str], str]

    def write(self, value: Any, level: int = 1) -> str:
        """Write a value that stands on a level of indentation."""
        indent, end = self.step * min(level + 1, DEEPEST), self.step * min(level, DEEPEST)
        flat = self._on_one_line(value, WIDTH - len(self.step) * level)
        if flat is not None:
            return flat
        match value:
            case dict():
                rows = [f"{indent}{self.key(k)}: {self.write(item, level + 1)}," for k, item in value.items()]
                return "\n".join(["{", *rows, end + "}"])
            case list():
                rows = [f"{indent}{self.write(item, level + 1)}," for item in value]
                return "\n".join(["[", *rows, end + "]"])
            case str() if "\n" in value.rstrip("\n"):
                return self.lines(value, indent, end)
            case _:
                return self._flat(value)

    def _on_one_line(self, value: Any, room: int) -> str | None:
        """Write a value on one line; None where there is no room, or it is a text of several lines.

        How long it is at least is counted first: else all that is in a value would be written at each of its
        levels.
        """
        if _least_length(value, room) > room:
            return None
        flat = self._flat(value)
        return flat if len(flat) <= room and "\\n" not in flat else None

    def _flat(self, value: Any) -> str:
        match value:
            case dict():
                members = ", ".join(f"{self.key(k)}: {self._flat(v)}" for k, v in value.items())
                return members.join(self.braces)
            case list():
                return "[" + ", ".join(map(self._flat, value)) + "]"
            case str():
                return _json(value)
            case _:
                return self.scalar(value)


def _least_length(value: Any, room: int) -> int:
    """Return how many characters a value takes at least; of one that takes more than ``room``, any above."""
    if isinstance(value, str):
        return len(value) + 2
    if not isinstance(value, dict | list):
        return 1
    length = 2
    for item in value:
        length += _least_length(item, room - length) + 1
        if isinstance(value, dict):
            length += _least_length(value[item], room - length) + 1
        if length > room:
            break
    return length


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Lone surrogates cannot be printed; the others JavaScript or an editor may take for the end of a line.
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def _python_scalar(value: Any) -> str:
    # What JSON can hold beyond finite numbers, Python has no literal for.
    return f'float("{value}")' if isinstance(value, float) and value - value != 0 else repr(value)


def _python_lines(value: str, indent: str, end: str) -> str:
    parts = filter(None, re.split(r"(?<=\n)", value))
    return "\n".join(["(", *(f"{indent}{_json(part)}" for part in parts), end + ")"])


def _javascript_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", name, re.ASCII) else _json(name)


def _javascript_lines(value: str, indent: str, end: str) -> str:
    return "\n".join(["[", *(f"{indent}{_json(part)}," for part in value.split("\n")), end + '].join("\\n")'])


_PYTHON = _Literals("    ", ("{", "}"), _json, _python_scalar, _python_lines)
_JAVASCRIPT = _Literals("  ", ("{ ", " }"), _javascript_key, json.dumps, _javascript_lines)


# --- Python ------------------------------------------------------------------------------------------


def python(request: Request) -> str:
    """Write it for the vendor's Python package. Raises GatewayError when it is no call."""
    target, body = request.target, request.document()
    sdk = _SDKS[target.api]
    lines = ["import os", "", f"from {sdk.python} import {sdk.name}", "", f"client = {sdk.name}("]
    lines += [f"    {key}={_PYTHON.write(value)}," for key, value in sdk.where(request, sdk.python_names)]
    lines += [f'    api_key=os.environ["{KEY_VARIABLE}"],', ")"]
    if target.operation.family == MODELS.name:
        return "\n".join([*lines, "for model in client.models.list():", "    print(model.id)", ""])
    body = _without_sdks_own(target, body)
    known = KEYWORDS[target.operation.name]
    arguments = {key: value for key, value in body.items() if key in known}
    extra = {key: value for key, value in body.items() if key not in known}
    beyond = {
        "extra_body": extra,
        "extra_headers": request.extra_headers,
        "extra_query": request.extra_query,
    }
    arguments |= {keyword: value for keyword, value in beyond.items() if value}
    streams = body.get("stream") is True
    lines.append(f"{'stream' if streams else 'answer'} = client.{target.operation.name}.create(")
    lines += [f"    {key}={_PYTHON.write(value)}," for key, value in arguments.items()]
    return "\n".join([*lines, ")", *_PYTHON_ENDS[target.operation.name, streams], ""])


_PYTHON_ENDS: Mapping[tuple[str, bool], list[str]] = {
    ("chat.completions", False): ["print(answer.choices[0].message.content)"],
    ("chat.completions", True): [
        "for chunk in stream:",
        "    if chunk.choices:",
        '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
        "print()",
    ],
    ("completions", False): ["print(answer.choices[0].text)"],
    ("completions", True): [
        "for chunk in stream:",
        "    if chunk.choices:",
        '        print(chunk.choices[0].text, end="", flush=True)',
        "print()",
    ],
    ("embeddings", False): ["print(len(answer.data), len(answer.data[0].embedding))"],
    ("messages", False): ['print("".join(block.text for block in answer.content if block.type == "text"))'],
    ("messages", True): [
        "for event in stream:",
        '    if event.type == "content_block_delta" and event.delta.type == "text_delta":',
        '        print(event.delta.text, end="", flush=True)',
        "print()",
    ],
    ("responses", False): ["print(answer.output_text)"],
    ("responses", True): [
        "for event in stream:",
        '    if event.type == "response.output_text.delta":',
        '        print(event.delta, end="", flush=True)',
        "print()",
    ],
}


# --- JavaScript --------------------------------------------------------------------------------------


def javascript(request: Request) -> str:
    """Write it for the vendor's npm package (an ES module). Raises GatewayError when it is no call."""
    target, body = request.target, request.document()
    sdk = _SDKS[target.api]
    imported = sdk.name if sdk.is_default else f"{{ {sdk.name} }}"
    lines = [f'import {imported} from "{sdk.npm}";', ""]
    lines += [f"const client = new {sdk.name}({{"]
    lines += [f"  {key}: {_JAVASCRIPT.write(value)}," for key, value in sdk.where(request, sdk.npm_names)]
    lines += [f"  apiKey: process.env.{KEY_VARIABLE},", "});"]
    if target.operation.family == MODELS.name:
        lines.append("for await (const model of client.models.list()) console.log(model.id);")
        return "\n".join([*lines, ""])
    body = _without_sdks_own(target, body)
    streams = body.get("stream") is True
    options = {"headers": request.extra_headers, "query": request.extra_query}
    options = {key: value for key, value in options.items() if value}
    lines.append(f"const {'stream' if streams else 'answer'} = await client.{target.operation.name}.create(")
    lines.append(f"  {_JAVASCRIPT.write(body)},")
    if options:
        lines.append(f"  {_JAVASCRIPT.write(options)},")
    return "\n".join([*lines, ");", *_JAVASCRIPT_ENDS[target.operation.name, streams], ""])


_JAVASCRIPT_ENDS: Mapping[tuple[str, bool], list[str]] = {
    ("chat.completions", False): ["console.log(answer.choices[0].message.content);"],
    ("chat.completions", True): [
        'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");',
        "console.log();",
    ],
    ("completions", False): ["console.log(answer.choices[0].text);"],
    ("completions", True): [
        'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.text ?? "");',
        "console.log();",
    ],
    ("embeddings", False): ["console.log(answer.data.length, answer.data[0].embedding.length);"],
    ("messages", False): [
        'for (const block of answer.content) if (block.type === "text") console.log(block.text);',
    ],
    ("messages", True): [
        "for await (const event of stream)",
        '  if (event.type === "content_block_delta" && event.delta.type === "text_delta")',
        "    process.stdout.write(event.delta.text);",
        "console.log();",
    ],
    ("responses", False): ["console.log(answer.output_text);"],
    ("responses", True): [
        "for await (const event of stream)",
        '  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);',
        "console.log();",
    ],
}

# --- curl --------------------------------------------------------------------------------------------


def curl(request: Request) -> str:
    """Write it for curl and a POSIX shell. Raises GatewayError when it is no call."""
    target = request.target
    path, _, query = request.path.partition("?")
    kept = [pair for pair in query.split("&") if pair.partition("=")[0].lower() not in SECRET_PARAMETERS]
    url = request.address + path + (f"?{'&'.join(kept)}" if query and kept else "")
    words = [
        f"curl -sS -N {shlex.quote(url)}",
        f'-H "{target.operation.dialect.key_headers[0]}: ${KEY_VARIABLE}"',
    ]
    said = {name.lower(): value for name, value in request.headers}
    needed = {name: said.get(name, value) for name, value in target.operation.dialect.headers}
    headers = {**needed, **request.extra_headers}
    words += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]
    if target.operation.family == MODELS.name:
        return " \\\n  ".join(words) + "\n"
    words += ["-H 'content-type: application/json'", "--data-binary @- <<'JSON'"]
    body = request.document()
    if target.deployment is not None:
        body.pop("model", None)
    # In JSON no line can hold nothing but that word, so the quoted here-document ends where it should.
    return " \\\n  ".join(words) + f"\n{_json(body, indent=2)}\nJSON\n"


FORMATS: Mapping[str, Callable[[Request], str]] = {"python": python, "js": javascript, "curl": curl}
"""The functions that write a request as code, by the name of the language."""


def code(body: bytes, language: str, head: Request) -> str:
    """Write a request, of which ``head`` has all but the body. A pure function; raises GatewayError."""
    write = FORMATS.get(language)
    if write is None:
        raise invalid_body(f"There is no format {language!r}: {', '.join(FORMATS)}.")
    try:
        return write(replace(head, body=body))
    except RecursionError:
        raise invalid_body("It is nested too deeply to be written as code.") from None
