"""Claude at a resource: reads what is asked, answers, and keeps the prompt cache. No I/O, no clock."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from aoai_simulator import messages
from aoai_simulator.completions import Completion
from aoai_simulator.message_requests import COUNT, Cached, cached_part, read_message_ask
from aoai_simulator.replies import InvalidError, Reply
from aoai_simulator.requests import Ask
from aoai_simulator.targets import Target
from aoai_simulator.tokenizer import Tokenizer

MAX_CACHED = 1000
"""Prompts in the cache; the one that was put in first goes first."""

CHARACTERS_PER_TOKEN = 4


class Claude:
    """The Claude deployments of a resource."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cached: OrderedDict[str, None] = OrderedDict()

    def reset(self) -> None:
        """Empty the cache."""
        self._cached.clear()

    def read(self, target: Target, headers: Mapping[str, str], body: Mapping[str, Any], model: str) -> Ask:
        """Understand a call. Raises InvalidError."""
        if headers.get("anthropic-version") is None:
            raise InvalidError("anthropic-version: header is required")
        return read_message_ask(body, model, self._tokenizer, counts=target.operation == COUNT)

    def answer(self, ask: Ask, completion: Completion, deployment: str, model: str, ident: str) -> Reply:
        """Answer a call; what its prompt puts into the cache is there the next time."""
        cached = self._look_up(ask, deployment)
        reply = messages.stream if ask.stream else messages.whole
        return reply(ask, completion, model, ident, cached)

    def _look_up(self, ask: Ask, deployment: str) -> Cached:
        part = cached_part(ask.body)
        if not part:
            return Cached()
        key = hashlib.sha256(f"{deployment}\n{part}".encode(errors="replace")).hexdigest()
        tokens = min(ask.prompt_tokens, len(part) // CHARACTERS_PER_TOKEN)
        if key in self._cached:
            return Cached(read=tokens)
        self._cached[key] = None
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return Cached(written=tokens)
