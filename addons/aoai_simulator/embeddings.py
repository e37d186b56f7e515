"""Bodies of embeddings: unit vectors that depend on the text only."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from functools import lru_cache
from typing import Any

from aoai_simulator import models
from aoai_simulator.replies import Whole, invalid_request, json_reply
from aoai_simulator.requests import Ask


def whole(ask: Ask, model: str) -> Whole:
    """The JSON answer, as floats or (encoding_format `base64`) as little-endian float32."""
    size = ask.body.get("dimensions", models.dimensions(model))
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= models.dimensions(model):
        return invalid_request(
            f"Invalid value for 'dimensions': expected 1 to {models.dimensions(model)}.", param="dimensions"
        )
    packed = ask.body.get("encoding_format") == "base64"
    data: list[dict[str, Any]] = []
    for index, text in enumerate(ask.inputs):
        vector = embed(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), size)
        embedding: Any = list(vector)
        if packed:
            embedding = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"embedding": embedding, "index": index, "object": "embedding"})
    totals = {"prompt_tokens": ask.prompt_tokens, "total_tokens": ask.prompt_tokens}
    body = {"data": data, "model": model, "object": "list", "usage": totals}
    return json_reply(body, ask.prompt_tokens)


@lru_cache(maxsize=256)
def embed(source: bytes, size: int) -> tuple[float, ...]:
    """A vector of length 1 in `size` dimensions, from a digest."""
    values = [byte - 127.5 for byte in hashlib.shake_128(source).digest(size)]
    norm = math.sqrt(sum(value * value for value in values))
    return tuple(round(value / norm, 8) for value in values)
