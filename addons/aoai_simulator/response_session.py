"""Responses over a WebSocket: each `response.create` is what the body of a request would be. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aoai_simulator.replies import Frames, Reply, Whole, compact

type Event = dict[str, Any]


@dataclass(slots=True)
class Streamed:
    """The events of one response, as they go out."""

    deltas: list[Event]
    said: int = 0
    over: bool = False


class ResponseSession:
    """One session. ``ask`` answers the body of a request for a response, streamed."""

    def __init__(self) -> None:
        self.ask: Callable[[bytes], Reply] = lambda body: Whole(500, (), b"{}")
        self.book: Callable[[int], bool] = lambda tokens: True
        self.turn: Streamed | None = None

    def begin(self) -> list[Event]:
        """What is said once the session is open: nothing."""
        return []

    def receive(self, message: Any) -> list[Event]:
        """Answer a message. A response that it begins is then `turn`."""
        if not isinstance(message, dict) or message.get("type") != "response.create":
            return [
                _error(
                    400,
                    {"code": "invalid_event", "message": "Unknown event.", "type": "invalid_request_error"},
                )
            ]
        if self.turn is not None:
            return [_error(400, {"code": "response_in_progress", "message": "A response is in progress."})]
        body = {name: value for name, value in message.items() if name not in ("type", "background")}
        reply = self.ask(compact({**body, "stream": True}))
        if isinstance(reply, Frames):
            self.turn = Streamed(list(_events(reply)))
            return []
        assert isinstance(reply, Whole)
        return [_error(reply.status, json.loads(reply.body)["error"])]

    def finish(self, status: str = "completed") -> list[Event]:
        """End the response under way: its last event has been said."""
        self.turn = None
        return []


def _events(reply: Frames) -> list[Event]:
    lines = b"".join(reply.frames).decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(each) for each in data]


def _error(status: int, error: Event) -> Event:
    return {"type": "error", "status": status, "error": error}
