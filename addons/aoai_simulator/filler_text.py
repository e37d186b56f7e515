"""Completion text, a deterministic function of a seed and the prompt; and plausible log probabilities of it.

A completion is a tuple of pieces. One piece is one token, and one content frame of a stream: the words
here are one token in the encodings of all models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

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


def logprobs_of(pieces: Sequence[str], top: int) -> list[dict[str, Any]]:
    """For each token its log probability, and the `top` most probable; chat and responses have this form."""
    return [logprob_of(piece, number, top) for number, piece in enumerate(pieces)]


def logprob_of(piece: str, number: int, top: int) -> dict[str, Any]:
    """The entry of the `number`-th token."""
    source = hashlib.sha256(f"{number}:{piece}".encode("utf-8", "surrogatepass")).digest()
    ranked = [(piece, -source[0] / 1000)]
    for byte in source[1:]:
        word = f" {VOCABULARY[byte % len(VOCABULARY)]}"
        if len(ranked) < top and word not in [known for known, _ in ranked]:
            ranked.append((word, ranked[-1][1] - 0.5 - byte / 250))
    first = _entry(*ranked[0])
    return {**first, "top_logprobs": [_entry(*each) for each in ranked[:top]]}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    encoded = list(text.encode("utf-8", "surrogatepass"))
    return {"token": text, "bytes": encoded, "logprob": round(logprob, 6)}


def legacy_logprobs(pieces: Sequence[str], top: int, offset: int) -> dict[str, Any]:
    """The form of completions; `offset` is the first token's place in the text."""
    listed = logprobs_of(pieces, top)
    return {
        "tokens": list(pieces),
        "token_logprobs": [each["logprob"] for each in listed],
        "top_logprobs": [
            {entry["token"]: entry["logprob"] for entry in each["top_logprobs"]} for each in listed
        ]
        if top
        else None,
        "text_offset": list(accumulate(map(len, pieces), initial=offset))[:-1],
    }
