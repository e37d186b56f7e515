"""The responses that faults put in an answer's place, built without I/O."""

from __future__ import annotations

from dataclasses import replace

from aoai_simulator import replies
from aoai_simulator.faults import Fault
from aoai_simulator.limits import Headers, retry_headers
from aoai_simulator.replies import Frames, Refused, Whole

_TYPICAL_SECONDS = {"tokens": 60.0, "requests": 2.0, "ptu": 0.5, "capacity": 20.0}

# A capture of 2026: an exhausted token window announced as over in no time.
_MS_ZERO: Headers = (
    ("retry-after", "1"),
    ("retry-after-ms", "0"),
    ("x-ratelimit-limit-requests", "5"),
    ("x-ratelimit-limit-tokens", "5000"),
    ("x-ratelimit-remaining-requests", "4"),
    ("x-ratelimit-remaining-tokens", "0"),
    ("x-ratelimit-renewalperiod-requests", "60"),
    ("x-ratelimit-renewalperiod-tokens", "60"),
    ("x-ratelimit-reset-requests", "12"),
    ("x-ratelimit-reset-tokens", "0"),
    ("x-ratelimit-type", "Tokens"),
)


def replacement(fault: Fault, who: Refused) -> Whole | None:
    """The response that the fault answers with; None if the fault is of another nature."""
    kind = fault.kind
    if kind == "429-ms-zero":
        return replies.rate_limited(who, "tokens", 1, fault["form"], _MS_ZERO)
    if kind == "429-no-hints":
        reason = fault["reason"]
        return replies.rate_limited(who, reason, _TYPICAL_SECONDS[reason], fault["form"])
    if kind == "retry-after-86400":
        headers = (("retry-after", "86400"), ("x-ratelimit-remaining-tokens", "0"))
        return replies.rate_limited(who, "tokens", 86400, fault["form"], headers)
    if kind in ("429", "429-late-body"):
        return _limited(fault, who)
    if kind in ("408", "500", "502", "503", "504", "529"):
        hint = fault["retry_after_seconds"]
        return replies.server_error(int(kind), headers=retry_headers(hint) if hint else ())
    if kind == "huge-error-body":
        return replies.error(
            int(fault["status"]),
            "InternalServerError",
            "x" * int(fault["bytes"]),
            more={"type": "server_error"},
        )
    simple = {"401": replies.wrong_key, "403": replies.forbidden, "content_filter": replies.content_filtered}
    return simple[kind]() if kind in simple else None


def _limited(fault: Fault, who: Refused) -> Whole:
    reason = fault["reason"]
    seconds = fault["retry_after_seconds"] or _TYPICAL_SECONDS[reason]
    headers = retry_headers(seconds)
    if reason == "ptu":
        headers = (("azure-openai-deployment-utilization", "103.2%"), *headers)
    elif reason == "tokens":
        headers = (*headers, ("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-type", "Tokens"))
    elif reason == "requests":
        headers = (*headers, ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-type", "Requests"))
    return replies.rate_limited(who, reason, seconds, fault["form"], headers)


def spoiled(frames: Frames, fault: Fault) -> Frames:
    """The stream as `malformed-sse`, `cut` or `stall` leave it; other faults leave it as it is."""
    if fault.kind in ("cut", "stall"):
        keep = min(int(fault["events"]), len(frames.frames) - 1)
        kept = frames.frames[:keep]
        if fault.get("mid_event"):
            whole = frames.frames[keep]
            kept = (*kept, whole[: max(1, len(whole) // 2)])
        count = len(kept)
        return replace(
            frames,
            frames=kept,
            early=min(frames.early, count),
            first=min(frames.first, count),
            last=min(frames.last, count),
        )
    if fault.kind == "malformed-sse":
        return replace(frames, frames=_malformed(frames.frames, int(fault["events"]), fault["form"]))
    return frames


def _malformed(frames: tuple[bytes, ...], position: int, form: str) -> tuple[bytes, ...]:
    if form == "crlf":
        return tuple(frame.replace(b"\n", b"\r\n") for frame in frames)
    bad = {
        "bad-json": b'data: {"choices":[{"delta":{"content":\n\n',
        "bad-utf8": b'data: {"choices":[],"model":"\xff\xfe"}\n\n',
        "html": b"<html><body><h1>502 Bad Gateway</h1></body></html>\n",
    }[form]
    return (*frames[:position], bad, *frames[position + 1 :])
