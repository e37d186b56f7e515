"""Counts beside a plain reading of the published framing, which shares no code with them, over a corpus."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import pytest
import tiktoken

from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.ranks import O200K
from aoai_simulator import limits

CHAT = "/openai/v1/chat/completions"
COMPLETIONS = "/openai/v1/completions"
EMBEDDINGS = "/openai/v1/embeddings"
RESPONSES = "/openai/v1/responses"
NAMES = {
    CHAT: "chat.completions",
    COMPLETIONS: "completions",
    EMBEDDINGS: "embeddings",
    RESPONSES: "responses",
}

PROSE = (
    "Platform teams share a few resources between many consumers. Quota is scarce, a refusal reaches the "
    "user, one batch job starves the chat bot, and nobody can see which prompt went where. "
)
GERMAN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Das übt, trotz Kälte und Nässe! "
JAPANESE = "いろはにほへと ちりぬるを わかよたれそ つねならむ。吾輩は猫である。名前はまだ無い。"
ARABIC = "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق. "
EMOJI = "Ship it 🚀🚀🎉 👩‍👩‍👧‍👦 — done ✅. "
CODE = inspect.getsource(limits)
TABLE = json.dumps([{"id": n, "name": f"row {n}", "price": n * 1.25, "tags": ["a", "b"]} for n in range(60)])
LOG = "\n".join(
    f"2026-02-{n:02d}T10:00:{n:02d}.123Z INFO call=3f{n:06x} took {n * 7} ms" for n in range(1, 28)
)


def chat(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


CORPUS: dict[str, tuple[str, dict[str, Any]]] = {
    "prose": (CHAT, chat(("system", "You are terse."), ("user", PROSE * 8))),
    "german": (CHAT, chat(("user", GERMAN * 8))),
    "japanese": (CHAT, chat(("user", JAPANESE * 8))),
    "arabic": (CHAT, chat(("user", ARABIC * 8))),
    "emoji": (CHAT, chat(("user", EMOJI * 20))),
    "code": (CHAT, chat(("developer", "Review this."), ("user", CODE))),
    "json": (CHAT, chat(("user", TABLE))),
    "log": (CHAT, chat(("user", LOG))),
    "a long conversation": (
        CHAT,
        chat(*((role, f"{PROSE}{n}") for n in range(20) for role in ("user", "assistant"))),
    ),
    "many short messages": (CHAT, chat(*(("user" if n % 2 else "assistant", "Yes.") for n in range(80)))),
    "parts": (CHAT, chat(("user", parts(PROSE, GERMAN, JAPANESE)))),
    "completion": (COMPLETIONS, {"prompt": PROSE * 3}),
    "completions": (COMPLETIONS, {"prompt": [PROSE, GERMAN, ARABIC]}),
    "embedding": (EMBEDDINGS, {"input": PROSE * 3}),
    "embeddings": (EMBEDDINGS, {"input": [PROSE, TABLE, LOG, JAPANESE]}),
    "response": (RESPONSES, {"instructions": GERMAN, "input": PROSE * 4}),
    "response of items": (
        RESPONSES,
        {"input": [{"role": "user", "content": PROSE}, {"role": "assistant", "content": GERMAN * 3}]},
    ),
}


def plainly_counted(path: str, body: Mapping[str, Any], encoding: tiktoken.Encoding) -> int:
    """Each message 3 tokens, its role and its text; 3 prime the reply. Other operations: their texts."""

    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text))

    if path in (COMPLETIONS, EMBEDDINGS):
        texts = body["prompt" if path == COMPLETIONS else "input"]
        return sum(map(count, [texts] if isinstance(texts, str) else texts))
    messages = body["messages" if path == CHAT else "input"]
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if "instructions" in body:
        messages = [{"role": "developer", "content": body["instructions"]}, *messages]
    tokens = 3
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        tokens += 3 + count(message["role"]) + count(text)
    return tokens


@pytest.fixture(scope="module")
def counts(counter: Counter, reference: Mapping[str, tiktoken.Encoding]) -> dict[str, tuple[int, int]]:
    """By name: the gateway's count and the plain one."""
    return {
        name: (
            counter.count_request(NAMES[path], body, "gpt-4o").tokens,
            plainly_counted(path, body, reference[O200K]),
        )
        for name, (path, body) in CORPUS.items()
    }


@pytest.mark.parametrize("name", CORPUS)
def test_a_count_is_within_three_percent_of_the_plain_one(
    counts: dict[str, tuple[int, int]], name: str
) -> None:
    ours, plain = counts[name]
    assert plain > 50
    assert abs(ours - plain) <= 0.03 * plain


def test_so_is_the_whole_corpus(counts: dict[str, tuple[int, int]]) -> None:
    ours, plain = (sum(each) for each in zip(*counts.values(), strict=True))
    assert abs(ours - plain) <= 0.03 * plain
