"""Which calls belong to one conversation, as far as clients say so.

A client names its conversation in a ``session-id`` header, as a stored ``conversation``, by going on from an
earlier response (``previous_response_id``), or with a ``prompt_cache_key``. The first of these that a call
has counts; a call that goes on from a response belongs where that response belonged. A response that begins
one gives it its own id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.bounded import Recent
from aoai_gateway.wire.operations import RESPONSES

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call

MOST_KEPT = 10_000
"""Responses whose conversation is remembered."""

LONGEST = 128
"""Characters of a conversation's name."""


class Conversations:
    """Remembers which conversation a response belongs to."""

    def __init__(self) -> None:
        self._of_response: Recent[str] = Recent(MOST_KEPT)

    def of(self, call: Call) -> str | None:
        """Name the conversation of a call that has ended, for people and for filters; None if it has none."""
        body = call.body
        if body is None:
            return None
        name = call.headers.get("session-id") or body.conversation_id
        if name is None and body.previous_response_id is not None:
            name = self._of_response.get(body.previous_response_id) or body.previous_response_id
        name = _one_line(name or body.prompt_cache_key)
        if call.target.operation is not RESPONSES or call.response_id is None:
            return name
        name = name or _one_line(call.response_id)
        if name is not None:
            self._of_response.put(call.response_id, name)
        return name


def _one_line(name: str | None) -> str | None:
    """What is shown must not look like another line of metadata."""
    return " ".join(name[: 8 * LONGEST].split())[:LONGEST] or None if name else None
