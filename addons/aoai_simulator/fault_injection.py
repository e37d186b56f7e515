"""The effect of each fault on a call, on the wire."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial

from aoai_simulator import message_requests, messages, replies
from aoai_simulator.chat import chat_preamble
from aoai_simulator.exchange import Exchange
from aoai_simulator.faults import Fault, replacement, spoiled
from aoai_simulator.limits import Headers, retry_headers
from aoai_simulator.replies import Pace
from aoai_simulator.requests import Ask
from aoai_simulator.resource import Call
from aoai_simulator.responses import EventSequence, Made, started_response


async def strike(exchange: Exchange, fault: Fault, call: Call) -> None:
    """Answer a call as the fault wants it."""
    if fault.kind == "hang":
        await _hang(exchange, fault, call)
    if fault.kind == "drop-after-idle":
        connection = exchange.connection
        exchange.when_done = partial(
            connection.drop_idle, fault["when"], fault["after_seconds"], fault["how"]
        )
    else:
        await asyncio.sleep(fault.get("after_seconds", 0))
    if fault.kind == "reset":
        await exchange.break_off("reset", fault["how"])
        return
    reply, pace = _reply(exchange, fault, call)
    if isinstance(reply, replies.Upgrade):
        await exchange.switch(reply, pace)
    elif isinstance(reply, replies.Whole):
        await _send(exchange, fault, reply, pace)
    else:
        await _stream(exchange, fault, reply, pace)


async def _hang(exchange: Exchange, fault: Fault, call: Call) -> None:
    if fault["after_head"]:
        kind = replies.EVENT_STREAM_TYPE if call.ask is not None and call.ask.stream else replies.JSON_TYPE
        await exchange.connection.stream.write(exchange.head(200, (kind,), None))
    await _for_ever()


async def _for_ever() -> None:
    """Wait until the call's task is cancelled: the client hangs up, or the simulator stops."""
    await asyncio.get_running_loop().create_future()


def _reply(exchange: Exchange, fault: Fault, call: Call) -> tuple[replies.Reply, Pace]:
    """The reply that the fault leaves, and its pace."""
    resource = exchange.listener.resource
    pace = exchange.pace(call)
    refusal = replacement(fault, resource.refused(call))
    if refusal is not None:
        return refusal, pace
    if fault.kind == "in-200-refusal" and call.ask is not None:
        return _refusal_in_200(exchange, fault, call, call.ask), Pace(fault["seconds"], 0.0)
    reply = resource.reply(call, asyncio.get_running_loop().time(), time.time())
    if fault.kind == "slow-first-token":
        pace = replace(pace, first_token=fault["seconds"])
    elif fault.kind == "bad-content-type" and not isinstance(reply, replies.Upgrade):
        reply = replace(reply, headers=_retyped(reply.headers, fault["content_type"]))
    return reply, pace


def _refusal_in_200(exchange: Exchange, fault: Fault, call: Call, ask: Ask) -> replies.Reply:
    """The refusal inside a stream; a call that does not stream gets its plain 429."""
    resource = exchange.listener.resource
    who = resource.refused(call)
    seconds = int(fault["retry_after"])
    if not ask.stream:
        return replies.rate_limited(who, "tokens", seconds, headers=retry_headers(seconds) if seconds else ())
    made = resource.made(who.deployment, time.time())
    if ask.operation == message_requests.OPERATION:
        return messages.overloaded_stream(who.model, made.ident)
    return _refused_stream(ask, made, who, fault)


_REFUSED_HEADERS = (("x-ratelimit-remaining-tokens", "-27689"), ("x-ratelimit-reset-tokens", "64"))


def _refused_stream(ask: Ask, made: Made, who: replies.Refused, fault: Fault) -> replies.Frames:
    """A 200 whose stream refuses before any content, as measured on the Responses API in August 2026.

    `retry_after` 0 leaves that header out. On chat/completions the stream has a plain error frame.
    """
    seconds = int(fault["retry_after"])
    hint: Headers = (("retry-after", str(seconds)),) if seconds else ()
    headers = (replies.EVENT_STREAM_TYPE, *hint, *_REFUSED_HEADERS)
    region = who.region.replace(" ", "").lower()
    detail = {
        "type": "too_many_requests",
        "code": "rate_limit_exceeded",
        "headers": {"x-ms-fe-error": "true"},
        "message": f"Your requests to {who.deployment} for {who.model} in {region} have exceeded rate limit.",
        "param": None,
    }
    if ask.operation != "responses":
        refusal = b"data: %s\n\n" % replies.compact({"error": detail})
        return replies.Frames(
            headers, (*chat_preamble(ask, who.model, made.ident, made.created), refusal), 2, 2, 3
        )
    sequence = EventSequence()
    started = started_response(ask, made)
    if fault["big"]:
        started["instructions"] = "Answer with care. " * 1200
    early = [sequence.event("response.created", response=started)]
    if fault["order"] == "failed-first":
        early.append(sequence.event("response.in_progress", response=started))
        failed = sequence.event("response.failed", response={**started, "status": "failed"})
        frames = (*early, failed, sequence.event("error", error=detail))
    else:
        refusal = sequence.event("error", error=detail)
        failure = {"code": "rate_limit_exceeded", "message": detail["message"]}
        failed = sequence.event("response.failed", response={**started, "status": "failed", "error": failure})
        frames = (*early, refusal, failed)
    return replies.Frames(headers, frames, len(early), len(early), len(early) + 1)


def _retyped(headers: Headers, content_type: str) -> Headers:
    others = tuple(pair for pair in headers if pair[0] != "content-type")
    return (("content-type", content_type), *others) if content_type else others


async def _send(exchange: Exchange, fault: Fault, reply: replies.Whole, pace: Pace) -> None:
    stream = exchange.connection.stream
    if reply.status == 200:
        await asyncio.sleep(pace.whole(reply.completion_tokens))
    if fault.kind == "429-late-body":
        start, body = exchange.whole(reply)
        await stream.write(start)
        await asyncio.sleep(fault["body_seconds"])
        await stream.write(body)
        exchange.done()
    elif fault.kind in ("cut", "stall") and reply.status == 200:
        start, body = exchange.whole(reply)
        await stream.write(start + body[: len(body) // 2])
        await _break(exchange, fault)
    else:
        exchange.send(reply)


async def _stream(exchange: Exchange, fault: Fault, reply: replies.Frames, pace: Pace) -> None:
    reply = spoiled(reply, fault)
    if fault.kind in ("cut", "stall") and fault.get("how") != "clean":
        await exchange.stream(reply, pace, broken=True)
        await _break(exchange, fault)
    else:
        head_first = fault.kind == "slow-first-token" and fault["head_first"]
        await exchange.stream(reply, pace, head_first=head_first)


async def _break(exchange: Exchange, fault: Fault) -> None:
    if fault.kind == "stall":
        await _for_ever()
    await exchange.break_off("cut", "rst" if fault["how"] == "rst" else "fin")
