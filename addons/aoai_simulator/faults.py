"""Faults on demand: which call gets which, and the responses that some put in an answer's place. No I/O.

A fault is aimed at an endpoint and a deployment (`*` is any) and strikes the next `times` calls that it
fits; -1 is for ever. Faults queue up: the first that fits a call is the one that strikes it. All times are
seconds; `after_seconds` delays what the fault does, and `before_body` makes it strike when the head of
the request has come (only the path's deployment is known then, and no key is looked at).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aoai_simulator import replies
from aoai_simulator.limits import Headers, retry_headers
from aoai_simulator.replies import Frames, Refused, Whole

Parameters = Mapping[str, Any]

_PLAIN: Parameters = {"after_seconds": 0.0, "before_body": False}
_HINTED: Parameters = {**_PLAIN, "retry_after_seconds": 0.0}

KINDS: Mapping[str, Parameters] = {
    # Refusals. `reason`: tokens, requests, ptu, capacity; `form` of the body: new, old, apim.
    # retry_after_seconds 0 is what Azure typically sends for the reason.
    "429": {**_HINTED, "reason": "tokens", "form": "new"},
    "429-no-hints": {**_PLAIN, "reason": "tokens", "form": "new"},
    "429-ms-zero": {**_PLAIN, "form": "new"},
    "429-late-body": {**_HINTED, "reason": "tokens", "form": "new", "body_seconds": 0.2},
    "retry-after-86400": {**_PLAIN, "form": "new"},
    # Errors.
    "401": _PLAIN,
    "403": _PLAIN,
    "408": _HINTED,
    "500": _HINTED,
    "502": _HINTED,
    "503": _HINTED,
    "504": _HINTED,
    "529": _HINTED,
    "content_filter": _PLAIN,
    "huge-error-body": {**_PLAIN, "status": 500, "bytes": 1_000_000},
    # The connection. `how`: rst or fin.
    "reset": {**_PLAIN, "how": "rst"},
    "hang": {"after_head": False, "before_body": False},
    # `when`: answer (right after it, plus after_seconds) or request (when the next one arrives).
    "drop-after-idle": {"after_seconds": 0.0, "when": "answer", "how": "fin"},
    # The answer itself. Numbers of events count from the stream's first frame.
    "slow-first-token": {"seconds": 5.0, "head_first": False},
    # `order`: error-first or failed-first (responses only); `big` makes response.created exceed 16 KB.
    "in-200-refusal": {"order": "error-first", "big": False, "seconds": 0.0, "retry_after": 4},
    # `how`: fin, rst, or clean (the chunked body ends as if it were complete).
    "cut": {"events": 4, "mid_event": False, "how": "fin"},
    "stall": {"events": 4},
    # `form`: bad-json, bad-utf8, html, crlf (odd but legal).
    "malformed-sse": {"events": 3, "form": "bad-json"},
    "bad-content-type": {"content_type": ""},
}
"""Every kind, with its parameters and their defaults."""

CHOICES: Mapping[str, frozenset[str]] = {
    "reason": frozenset({"tokens", "requests", "ptu", "capacity"}),
    "when": frozenset({"answer", "request"}),
    "order": frozenset({"error-first", "failed-first"}),
}
_KIND_CHOICES: Mapping[tuple[str, str], frozenset[str]] = {
    ("malformed-sse", "form"): frozenset({"bad-json", "bad-utf8", "html", "crlf"}),
    ("cut", "how"): frozenset({"fin", "rst", "clean"}),
}
_COMMON_CHOICES: Mapping[str, frozenset[str]] = {
    **CHOICES,
    "form": frozenset({"new", "old", "apim"}),
    "how": frozenset({"fin", "rst"}),
}


class FaultError(ValueError):
    """A fault that cannot be: the message names the mistake and the remedy."""


@dataclass(slots=True)
class Fault:
    """One queued fault. `times` counts down as it strikes; a negative one stays."""

    kind: str
    endpoint: str = "*"
    deployment: str = "*"
    times: int = 1
    parameters: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FaultError(f"unknown fault {self.kind!r}; there are: {', '.join(KINDS)}")
        if not isinstance(self.times, int) or isinstance(self.times, bool) or self.times == 0:
            raise FaultError("times must be a number of calls, or -1 for ever")
        known = KINDS[self.kind]
        for name, value in self.parameters.items():
            if name not in known:
                names = ", ".join(known) or "none"
                raise FaultError(f"fault {self.kind!r} has no parameter {name!r}; it has: {names}")
            _check(self.kind, name, known[name], value)
        self.parameters = {**known, **self.parameters}

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter; its default if it was not given."""
        return self.parameters[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a parameter, or `default` where the kind has none of that name."""
        return self.parameters.get(name, default)

    def fits(self, endpoint: str, deployment: str | None) -> bool:
        """Whether a call to this endpoint and deployment is one that the fault is aimed at."""
        return self.endpoint in ("*", endpoint) and self.deployment in ("*", deployment)

    def as_dict(self) -> dict[str, Any]:
        """The fault in the form that the control plane takes and shows."""
        return {
            "fault": self.kind,
            "endpoint": self.endpoint,
            "deployment": self.deployment,
            "times": self.times,
            **self.parameters,
        }


def _check(kind: str, name: str, default: Any, value: Any) -> None:
    choices = _KIND_CHOICES.get((kind, name)) or _COMMON_CHOICES.get(name)
    if choices is not None:
        if value not in choices:
            raise FaultError(f"{name} of {kind!r} must be one of {', '.join(sorted(choices))}")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise FaultError(f"{name} of {kind!r} must be true or false")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise FaultError(f"{name} of {kind!r} must be a string")
    elif not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise FaultError(f"{name} of {kind!r} must be a number of at least 0")


def read_fault(item: Mapping[str, Any]) -> Fault:
    """A fault from the control plane's form: `{"fault": kind, "deployment": …, "times": …, …}`."""
    values = dict(item)
    kind = values.pop("fault", None)
    if not isinstance(kind, str):
        raise FaultError(f'"fault" is missing; it is one of: {", ".join(KINDS)}')
    endpoint, deployment = values.pop("endpoint", "*"), values.pop("deployment", "*")
    return Fault(kind, str(endpoint), str(deployment), values.pop("times", 1), values)


class FaultQueue:
    """The queued faults of a simulator."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = list(faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, fault: Fault) -> None:
        """Queue a fault behind the waiting ones."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def take(self, endpoint: str, deployment: str | None, *, before_body: bool = False) -> Fault | None:
        """The fault that strikes this call, if any; it is used up once.

        With `before_body`, the call's head is all that is known: only faults with that parameter strike.
        """
        for fault in self._faults:
            if fault.fits(endpoint, deployment) and fault.get("before_body", False) == before_body:
                if fault.times > 0:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                return fault
        return None


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
