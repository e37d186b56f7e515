"""Plausible log probabilities of an answer's tokens, in the forms of chat, completions and responses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aoai_simulator.filler_text import VOCABULARY


def tokens(pieces: Sequence[str], top: int) -> list[dict[str, Any]]:
    """For each token its log probability, and the `top` most probable; chat and responses have this form."""
    return [token(piece, number, top) for number, piece in enumerate(pieces)]


def token(piece: str, number: int, top: int) -> dict[str, Any]:
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


def legacy(pieces: Sequence[str], top: int, offset: int = 0) -> dict[str, Any]:
    """The form of completions; `offset` is the first token's place in the text."""
    listed = tokens(pieces, top)
    places = []
    for piece in pieces:
        places.append(offset)
        offset += len(piece)
    return {
        "tokens": list(pieces),
        "token_logprobs": [each["logprob"] for each in listed],
        "top_logprobs": [
            {entry["token"]: entry["logprob"] for entry in each["top_logprobs"]} for each in listed
        ]
        if top
        else None,
        "text_offset": places,
    }
