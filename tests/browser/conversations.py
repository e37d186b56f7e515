"""Prompts as people write them; the simulator answers with what follows ``say:``."""

from __future__ import annotations

import base64
import struct
from typing import Any

_LABEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 1024, 1024, 8, 2, 0, 0, 0) + bytes(40_000)
).decode()
"""The head of a picture of 1024 × 1024, and nothing in it: no reader looks further."""

SYSTEM = """\
You are the support assistant of Contoso Outdoor.
Answer in the customer's language, in three sentences at most.

If an order is late, say when it will arrive, and offer a refund of the shipping costs."""

GET_ORDER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Status of an order.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer", "description": "The order's number"}},
            "required": ["number"],
        },
    },
}

ANSWER = """\
Your order 4711 left our warehouse on Friday and will arrive on Tuesday, two days late.

I am sorry for that: would you like a refund of the shipping costs?"""

SUPPORT: list[dict[str, Any]] = [
    {"role": "system", "content": SYSTEM},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Where is my order? This is the label that I got."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_LABEL}", "detail": "high"}},
        ],
    },
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_order", "arguments": '{"number": 4711}'},
            }
        ],
    },
    {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": '{"status": "shipped", "carrier": "Northwind Post", "expected": "2026-11-24"}',
    },
    {"role": "user", "content": f"say:{ANSWER}"},
]


def asked(text: str) -> list[dict[str, Any]]:
    """A short prompt with this as the last word of the user."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
