"""Completion text: a deterministic function of a seed and the prompt.

A completion is a tuple of pieces. One piece is one token, and one content frame of a stream: the words
here are one token in the encodings of all models.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

ECHO = "say:"
"""A last user message that starts so is answered with the text after it, word for word."""

VOCABULARY = tuple(
    word
    for line in (
        "the a this one each our that every model answer request token service region client system",
        "line window limit quota second minute budget prompt result value table column number reason",
        "detail gives takes holds shows keeps needs returns covers meets follows reaches counts small",
        "large common clear short early steady simple useful likely quickly often again together first",
        "then however because while before",
    )
    for word in line.split()
)
_OPENERS = VOCABULARY[:16]
"""Words that are one token with a capital letter, too."""

_PIECE = re.compile(r"\s*\S{1,8}|\s+")


def digest(seed: int, prompt: str) -> bytes:
    """The inputs of a completion's text."""
    return hashlib.sha256(b"%d:" % seed + prompt.encode("utf-8", "surrogatepass")).digest()


def natural_length(source: bytes) -> int:
    """How many pieces a completion has when nothing limits it: 16 to 47."""
    return 16 + source[0] % 32


@lru_cache(maxsize=1024)
def prose(source: bytes, length: int) -> tuple[str, ...]:
    """Plausible words: a sentence of about nine after the other."""
    pieces: list[str] = []
    block, start = source, True
    while len(pieces) < length:
        block = hashlib.sha256(block).digest()
        for byte in block:
            if start:
                word = _OPENERS[byte % len(_OPENERS)].capitalize()
            else:
                word = VOCABULARY[byte % len(VOCABULARY)]
            start = byte < 28
            pieces.append(("" if not pieces else " ") + word)
            if start:
                pieces.append(".")
    return tuple(pieces[:length])


def split(text: str) -> tuple[str, ...]:
    """Any text as pieces; joined they are the text again."""
    return tuple(_PIECE.findall(text))


def estimate_tokens(text: str) -> int:
    """One token per four bytes of UTF-8, rounded up."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return (size + 3) // 4
