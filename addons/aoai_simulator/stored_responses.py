"""The responses that a simulated resource stores, and the conversations that they make."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from aoai_simulator.replies import Frames, Whole, error, invalid_request, json_reply
from aoai_simulator.targets import Target

MAX_STORED = 1000
"""How many responses a resource stores; the oldest goes first."""

MAX_TURNS = 100
"""How many stored responses are searched for the tools that a conversation has called already."""


class StoredResponses:
    """Responses by their ids, in the order in which they were made."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __contains__(self, ident: object) -> bool:
        return ident in self._by_id

    def clear(self) -> None:
        """Forget all of them."""
        self._by_id.clear()

    def put(self, body: dict[str, Any], asked: object, stream: Frames | None = None) -> None:
        """Store a response; ``asked`` is the input that it answers, ``stream`` can be taken up again."""
        self._by_id[body["id"]] = {"body": body, "input": asked, "stream": stream}
        if len(self._by_id) > MAX_STORED:
            self._by_id.popitem(last=False)

    def conversation(self, ident: object) -> list[Mapping[str, Any]]:
        """The items of a stored response and of those that it continues, the oldest first."""
        turns: list[list[Any]] = []
        while isinstance(ident, str) and ident in self._by_id and len(turns) < MAX_TURNS:
            stored = self._by_id[ident]
            asked = stored["input"]
            items = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
            turns.append([*items, *stored["body"]["output"]])
            ident = stored["body"]["previous_response_id"]
        return [item for turn in reversed(turns) for item in turn if isinstance(item, Mapping)]

    def answer(self, target: Target) -> Whole | Frames:
        """Answer GET or DELETE of a stored response, a question for its input items, or a cancellation."""
        ident = target.item or ""
        stored = self._by_id.get(ident)
        if stored is None:
            return not_found(ident)
        if target.method == "DELETE":
            del self._by_id[ident]
            return json_reply({"id": ident, "object": "response", "deleted": True})
        if target.part == "cancel" and not stored["body"]["background"]:
            return invalid_request("Only background responses can be cancelled.")
        if target.part == "input_items":
            return json_reply(_input_items(ident, stored["input"]))
        if target.stream_after is not None:
            return _rest_of(stored["stream"], target.stream_after)
        return json_reply(stored["body"])


def _input_items(ident: str, items: Any) -> dict[str, Any]:
    """The list that `GET …/{id}/input_items` answers."""
    if isinstance(items, str):
        content = [{"type": "input_text", "text": items}]
        items = [{"type": "message", "role": "user", "status": "completed", "content": content}]
    data = [{**item, "id": item.get("id") or f"msg_{ident[5:]}{n}"} for n, item in enumerate(items)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": False, **ends}


def not_found(ident: str, *, previous: bool = False) -> Whole:
    """A response id of another resource: 400 as previous_response_id, 404 in the path."""
    if previous:
        return invalid_request(
            f"Previous response with id '{ident}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    message = f"Response with id '{ident}' not found."
    return error(404, None, message, more={"type": "invalid_request_error", "param": None})


def _rest_of(stream: Frames | None, after: int) -> Whole | Frames:
    """Return the events of a stream that come after the one with a number; they are all there already."""
    if stream is None:
        return invalid_request(
            "Only the stream of a background response that was created with 'stream' can be asked for.",
            param="stream",
        )
    frames = stream.frames[after + 1 :]
    return Frames(stream.headers, frames, len(frames), len(frames), len(frames))
