"""Runs of assistants: what they leave in their thread, and the events of one that is followed.

Source: the reference of the Assistants API (objects of messages and run steps, streaming events). SDKs put a
message together from its events: a delta without a ``thread.message.created`` before it is an error to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aoai_simulator.replies import EVENT_STREAM_TYPE, Frames, event_frame

TEXT = "This is a simulated answer."
USAGE: Mapping[str, int] = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
_UNDER_WAY = {"usage": None, "completed_at": None}

type Thing = Mapping[str, Any]


def message_of(run: Thing) -> dict[str, Any]:
    """The message that a run adds to its thread."""
    return {
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "text", "text": {"value": TEXT, "annotations": []}}],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "assistant_id": run.get("assistant_id"),
        "attachments": [],
        "completed_at": run["completed_at"],
    }


def step_of(run: Thing, message: Thing) -> dict[str, Any]:
    """The step of a run in which it made a message."""
    return {
        "type": "message_creation",
        "step_details": {"type": "message_creation", "message_creation": {"message_id": message["id"]}},
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "assistant_id": run.get("assistant_id"),
        "usage": dict(USAGE),
        "completed_at": run["completed_at"],
    }


def queued(run: Thing) -> dict[str, Any]:
    """A run as the answer to its creation shows it: clients wait for its end, and look then at its steps."""
    return {**run, "status": "queued", "started_at": None, **_UNDER_WAY}


def stream(run: Thing, message: Thing, step: Thing) -> Frames:
    """The events of a run, from its creation to its end."""
    frames = [event_frame(name, data) for name, data in _events(run, message, step)]
    frames.append(b"event: done\ndata: [DONE]\n\n")
    # The first text comes after seven events; the words are the paced ones.
    return Frames((EVENT_STREAM_TYPE,), tuple(frames), 7, 7, 7 + len(_pieces()), USAGE["total_tokens"])


def _events(run: Thing, message: Thing, step: Thing) -> Iterator[tuple[str, Thing]]:
    yield "thread.run.created", queued(run)
    yield "thread.run.queued", queued(run)
    yield "thread.run.in_progress", {**run, "status": "in_progress", **_UNDER_WAY}
    begun_step = {**step, "status": "in_progress", **_UNDER_WAY}
    yield "thread.run.step.created", begun_step
    yield "thread.run.step.in_progress", begun_step
    begun = {**message, "status": "in_progress", "content": [], "completed_at": None}
    yield "thread.message.created", begun
    yield "thread.message.in_progress", begun
    for piece in _pieces():
        text = {"index": 0, "type": "text", "text": {"value": piece}}
        delta = {"id": message["id"], "object": "thread.message.delta", "delta": {"content": [text]}}
        yield "thread.message.delta", delta
    yield "thread.message.completed", message
    yield "thread.run.step.completed", step
    yield "thread.run.completed", run


def _pieces() -> list[str]:
    first, *others = TEXT.split(" ")
    return [first, *(f" {word}" for word in others)]
