"""How many tokens a prompt has, and where an answer is cut into tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.bodies import read_prompt
from aoai_gateway.tokens.models import family_of
from aoai_gateway.tokens.text import PIECE_CHARS, pieces
from aoai_simulator import filler_text as words

_OPERATIONS = {"chat/completions": "chat.completions"}


class Tokenizer(Protocol):
    """Counts prompts and splits answers; neither method raises for the content of a request."""

    def prompt(self, operation: str, body: Mapping[str, Any], model: str) -> int:
        """Tokens of a request's prompt, framing and tools included."""

    def split(self, text: str, model: str) -> tuple[str, ...]:
        """The text's tokens; joined they are the text again.

        A character of several tokens stands in the last of them, and the others are empty.
        """


class EncodingTokenizer:
    """Counts with the models' own encodings, and by estimate as long as `counter` has none."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def prompt(self, operation: str, body: Mapping[str, Any], model: str) -> int:
        """Tokens of a request's prompt."""
        return self._counter.count_request(_OPERATIONS.get(operation, operation), body, model).tokens

    def split(self, text: str, model: str) -> tuple[str, ...]:
        """The text's tokens."""
        encoding = self._counter.encodings.by_name.get(family_of(model).encoding)
        if encoding is None or not _is_utf8(text):
            return words.split(text)
        made: list[str] = []
        for part, _ in pieces(text, PIECE_CHARS):
            held = b""
            for token in encoding.encode_ordinary(part):
                held += encoding.decode_single_token_bytes(token)
                try:
                    made.append(held.decode())
                except UnicodeDecodeError:
                    made.append("")
                else:
                    held = b""
        return tuple(made)


class ByteTokenizer:
    """Counts a token for every four bytes of a prompt's texts; `split` cuts at white space."""

    def prompt(self, operation: str, body: Mapping[str, Any], model: str) -> int:
        """Tokens of a request's prompt."""
        prompt = read_prompt(_OPERATIONS.get(operation, operation), body, family_of(model))
        return prompt.tokens + sum(map(words.estimate_tokens, prompt.texts))

    def split(self, text: str, model: str) -> tuple[str, ...]:
        """The text in pieces of up to eight letters, with the white space before them."""
        return words.split(text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
