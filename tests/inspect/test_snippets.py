"""Calls as code: it says what the client has sent, runs as it is, and holds no secret."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from anthropic.resources import Messages
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import exceptions
from openai.resources import Completions, Embeddings
from openai.resources.chat import Completions as ChatCompletions
from openai.resources.responses import Responses

from aoai_gateway.inspect import snippets
from aoai_gateway.inspect.picked_views import LARGEST, written
from aoai_gateway.inspect.snippets import FORMATS, KEYWORDS, Request
from aoai_gateway.wire.gateway_error import GatewayError
from tests.programs import require
from tests.workbench.test_calls import call

V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
CLAUDES = "/anthropic/v1/messages"
HEADERS = (
    ("Host", "127.0.0.1:8080"),
    ("content-type", "application/json"),
    ("x-stainless-lang", "python"),
    ("session-id", "s-1"),
    ("api-key", "never-shown"),
)
PROMPT = {"messages": [{"role": "system", "content": 'You are a "poet".\nBe brief.'}], "max_tokens": 5}


def request(path: str = V1, body: Any = None, method: str = "POST") -> Request:
    document = {"model": "gpt-4o", **PROMPT} if body is None else body
    return Request("http://127.0.0.1:8080", method, path, HEADERS, json.dumps(document).encode())


def arguments(code: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a Python snippet passes to the client's constructor and to ``create``."""
    made: list[dict[str, Any]] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and node.keywords:
            given = {k.arg: k.value for k in node.keywords if k.arg not in ("api_key", "end", "flush")}
            if given:
                made.append({str(name): ast.literal_eval(value) for name, value in given.items()})
    client, create = made
    return client, create


def test_python_for_the_v1_api() -> None:
    code = snippets.python(request(body={"model": "gpt-4o", **PROMPT, "odd": None}))
    client, create = arguments(code)
    assert "from openai import OpenAI\n" in code
    assert client == {"base_url": "http://127.0.0.1:8080/openai/v1/"}
    extra = {"extra_body": {"odd": None}, "extra_headers": {"session-id": "s-1"}}
    assert create == {"model": "gpt-4o", **PROMPT, **extra}
    assert 'api_key=os.environ["AOAI_GATEWAY_KEY"]' in code
    assert code.endswith("print(answer.choices[0].message.content)\n")


@pytest.mark.parametrize("language", ["python", "js"])
def test_embeddings_are_numbers_as_they_were_for_the_client(language: str) -> None:
    """The SDKs ask for base64 themselves, and decode it only for callers who have not asked for it."""
    body = {"model": "ada", "input": "x", "encoding_format": "base64"}
    written = FORMATS[language](request("/openai/v1/embeddings", body))
    assert "encoding_format" not in written
    assert "encoding_format" in FORMATS[language](
        request("/openai/v1/embeddings", {**body, "encoding_format": "float"})
    )


def test_python_for_the_classic_api() -> None:
    code = snippets.python(request(CLASSIC, {**PROMPT, "stream": True}))
    client, create = arguments(code)
    assert "from openai import AzureOpenAI\n" in code
    assert client == {"azure_endpoint": "http://127.0.0.1:8080", "api_version": "2024-10-21"}
    assert create["model"] == "gpt-4o"
    assert create["stream"] is True
    assert "for chunk in stream:" in code


def test_claude_is_asked_with_its_own_sdks() -> None:
    body = {"model": "sonnet", "max_tokens": 5, "messages": [], "temperature": 1}
    headers = (*HEADERS, ("anthropic-version", "2026-10-21"), ("anthropic-beta", "b-1"))
    asked = Request("http://gw", "POST", CLAUDES, headers, json.dumps(body).encode())
    code = snippets.python(asked)
    assert "from anthropic import Anthropic\n" in code
    client, create = arguments(code)
    assert client == {"base_url": "http://gw/anthropic"}
    assert create["extra_body"] == {"temperature": 1}
    assert create["extra_headers"] == {"session-id": "s-1", "anthropic-beta": "b-1"}
    written = snippets.javascript(asked)
    assert 'import Anthropic from "@anthropic-ai/sdk";' in written
    assert "client.messages.create(" in written
    curl = snippets.curl(asked)
    assert '"x-api-key: $AOAI_GATEWAY_KEY"' in curl
    assert "'anthropic-version: 2026-10-21'" in curl


def test_a_prompt_of_several_lines_stays_readable() -> None:
    code = snippets.python(request())
    assert '                "Be brief."\n' in code
    assert '"Be brief.",\n' in snippets.javascript(request())


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/openai/v1/responses", {"model": "gpt-4o", "input": "Hi"}, "answer.output_text"),
        ("/openai/v1/responses", {"model": "gpt-4o", "input": "Hi", "stream": True}, "output_text.delta"),
        ("/openai/v1/embeddings", {"model": "embed", "input": "Hi"}, "embedding"),
        (CLAUDES, {"model": "sonnet", "max_tokens": 5, "messages": []}, "block.text"),
        (CLAUDES, {"model": "sonnet", "max_tokens": 5, "messages": [], "stream": True}, "event.delta.text"),
        ("/openai/v1/completions", {"model": "gpt", "prompt": "Hi"}, "choices[0].text"),
        ("/openai/v1/completions", {"model": "gpt", "prompt": "Hi", "stream": True}, "choices"),
    ],
)
def test_other_operations(path: str, body: dict[str, Any], says: str) -> None:
    for write in (snippets.python, snippets.javascript):
        assert says in write(request(path, body))
    assert arguments(snippets.python(request(path, body)))[1].items() >= body.items()


def test_the_list_of_models() -> None:
    asked = Request("http://gw", "GET", "/openai/v1/models", HEADERS, b"")
    for write in FORMATS.values():
        assert "models" in write(asked)


@pytest.mark.parametrize("name", FORMATS)
def test_no_secret_is_in_it(name: str) -> None:
    asked = request(CLASSIC + "&api-key=never-shown&code=never-shown")
    code = FORMATS[name](asked)
    assert "never-shown" not in code
    assert "AOAI_GATEWAY_KEY" in code
    assert "x-stainless" not in code


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_call_has_no_code(name: str) -> None:
    for asked in (request("/elsewhere"), Request("http://gw", "POST", V1, HEADERS, b"{")):
        if name == "curl" and asked.path == "/elsewhere":
            continue
        with pytest.raises(GatewayError):
            FORMATS[name](asked)


@pytest.mark.parametrize(
    ("operation", "resource"),
    [
        ("chat.completions", ChatCompletions),
        ("completions", Completions),
        ("embeddings", Embeddings),
        ("responses", Responses),
        ("messages", Messages),
    ],
)
def test_the_keywords_are_the_sdks(operation: str, resource: type) -> None:
    taken = set(inspect.signature(resource.create).parameters)
    assert KEYWORDS[operation] <= taken


TEXTS = st.text(st.characters(exclude_categories=[]), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_any_value_is_the_same_in_python(value: Any) -> None:
    assert ast.literal_eval(snippets._PYTHON.write(value, 0)) == value


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_curl_sends_the_same_json(body: dict[str, Any]) -> None:
    document = {**body, "model": "gpt-4o"}
    code = snippets.curl(request(body=document))
    assert json.loads(code.partition("<<'JSON'\n")[2].removesuffix("\nJSON\n")) == document
    code.encode()


def test_curl_runs_in_a_shell(tmp_path: Path) -> None:
    fake = tmp_path / "curl"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncat\n')
    fake.chmod(0o755)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "it's $HOME `x`\n\\"}]}
    done = subprocess.run(
        ["sh", "-euc", snippets.curl(request(body=body))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "AOAI_GATEWAY_KEY": "my key"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.partition("{")[0].splitlines()
    assert words[:4] == ["-sS", "-N", f"http://127.0.0.1:8080{V1}", "-H"]
    assert "api-key: my key" in words
    assert json.loads("{" + done.stdout.partition("{")[2]) == body


@pytest.mark.node
def test_javascript_is_javascript(tmp_path: Path) -> None:
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "a\nb\u2028`${x}`"}],
        "a-b": [1.5, None],
    }
    for path in (V1, CLASSIC):
        code = tmp_path / "snippet.mjs"
        code.write_text(snippets.javascript(request(path, body)))
        subprocess.run([require("node"), "--check", code], check=True, capture_output=True)


def test_the_sdk_knows_the_clients() -> None:
    assert openai.OpenAI
    assert openai.AzureOpenAI


@pytest.mark.parametrize("path", ["files", "responses/resp_1", "vector_stores/vs_1/files"])
@pytest.mark.parametrize("name", snippets.FORMATS)
def test_what_has_no_prompt_is_not_written_as_code(path: str, name: str) -> None:
    asked = snippets.Request("http://gw", "GET", f"/openai/v1/{path}", (), b"")
    with pytest.raises(GatewayError, match="Only calls with a prompt"):
        snippets.FORMATS[name](asked)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_nested_is_written_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    write = snippets._json

    def counted(value: Any, indent: int | None = None) -> str:
        texts.append(value)
        return write(value, indent)

    monkeypatch.setattr(snippets, "_json", counted)
    value: Any = {str(number): "x" * 50 for number in range(200)}
    for _ in range(200):
        value = {"inner": value, "more": "y" * 90}
    code = FORMATS[name](request(body={"model": "gpt-4o", **PROMPT, "metadata": value}))
    assert len(texts) < 2_000
    assert len(code) < 300_000


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_nested_too_deeply_is_refused(name: str) -> None:
    body = b'{"model": "gpt-4o", "messages": [], "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(GatewayError):
        snippets.code(body, name, request())


def test_a_large_call_is_not_written_on_the_event_loop() -> None:
    with pytest.raises(exceptions.CommandError, match=r"1\.0 MB.*workbench"):
        written("python", call("x" * LARGEST))
