"""How long an answer can be that its request sets no bound: what the model may write at most.

From "Azure OpenAI models" in Microsoft's documentation, column "Max output tokens"; of several versions of a
model the largest.
"""

from __future__ import annotations

from functools import lru_cache

_MOST = (
    ("codex-mini", 100_000),
    ("gpt-3", 4_096),
    ("gpt-4", 8_192),
    ("gpt-4-32k", 32_768),
    ("gpt-4-turbo", 4_096),
    ("gpt-4.1", 32_768),
    ("gpt-4.5", 16_384),
    ("gpt-4o", 16_384),
    ("gpt-5", 128_000),
    ("gpt-5-chat", 16_384),
    ("gpt-oss", 131_072),
    ("o1", 100_000),
    ("o1-mini", 65_536),
    ("o1-preview", 32_768),
    ("o3", 100_000),
    ("o4-mini", 100_000),
)
_LONGEST_FIRST = tuple(sorted(_MOST, key=lambda each: len(each[0]), reverse=True))

UNKNOWN_MOST = 16_384
"""Tokens, of a model that is not known."""


@lru_cache(maxsize=1024)
def most_output_tokens(model: str | None) -> int:
    """Return the tokens that one answer of a base model can have, reasoning included."""
    name = (model or "").strip().lower()
    return next((most for prefix, most in _LONGEST_FIRST if name.startswith(prefix)), UNKNOWN_MOST)
