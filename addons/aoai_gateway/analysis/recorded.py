"""Recorded calls, as what a backtest sends again: when they came, what they asked for, and how backends did.

What a call would have asked for and taken, where nothing tells (it was refused, or aborted), is the mean of
its consumer's served calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from aoai_gateway.analysis.consumers import CLIENTS_END, refusal_of
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

if TYPE_CHECKING:
    from aoai_gateway.analysis.reading import Record

PATHS = {each.name: each.address for each in (CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)}
"""Where calls of each operation go, in the version of the API that needs no more words."""

MOST_SAMPLES = 2_000
"""The most samples of a backend's speed; more would tell no more."""

NO_FAULTS: Mapping[str, Fault] = MappingProxyType({})
"""The faults of most calls: none."""

DEFAULT_BEGIN, DEFAULT_SPEED = 0.5, 60.0
"""Seconds until an answer begins, and tokens per second, where no record tells."""


class Decision(NamedTuple):
    """What became of a call: ``served`` or the cause of its end, and at which backend."""

    end: str
    backend: str


class Fault(NamedTuple):
    """How a backend failed a call, other than for want of capacity."""

    status: int | None
    """None: no answer came at all."""
    seconds: float


@dataclass(slots=True)
class RecordedCall:
    """One call. ``at`` is seconds since the epoch, all other times are durations in seconds."""

    at: float
    id: str
    client: str
    deployment: str
    operation: str
    stream: bool
    most: int | None
    priority: str | None
    prompt: int
    completion: int
    cached: int
    decision: Decision
    cost: float | None
    waited: float
    spilled: bool
    begin: float | None
    """Seconds until the answer of the backend that served it began."""
    duration: float | None
    """Seconds that the attempt took which served it."""
    status: int
    patience: float | None
    """Seconds after which its client hung up."""
    faults: Mapping[str, Fault] = field(default_factory=dict)


@dataclass(slots=True)
class Outcomes:
    """What became of one call as recorded, or under a candidate."""

    call: RecordedCall
    decision: Decision
    waited: float
    spilled: bool
    cost: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a backend answers: seconds until it begins, and tokens per second from then on."""

    begin: float = DEFAULT_BEGIN
    tokens: float = DEFAULT_SPEED


@dataclass(slots=True)
class Recording:
    """All that the backtest takes from records."""

    calls: list[RecordedCall] = field(default_factory=list)
    speeds: dict[str, Speed] = field(default_factory=dict)
    """The speeds by backend, ``standin@endpoint``."""
    observed_limits: dict[str, int] = field(default_factory=dict)
    """The most tokens that backends which refused calls served in a minute, by backend."""
    left_out: int = 0
    """Records that are no calls which could be sent again."""
    _usual: Speed | None = field(default=None, repr=False, compare=False)
    """The median of all speeds, once it was asked for."""

    def speed(self, backend: str) -> Speed:
        """Return the speed of a backend; of one that served nothing, the median of the others."""
        found = self.speeds.get(backend)
        if found is not None or not self.speeds:
            return found or Speed()
        if self._usual is None:
            known = self.speeds.values()
            self._usual = Speed(median(each.begin for each in known), median(each.tokens for each in known))
        return self._usual


def recording_of(records: Iterable[tuple[float, Record]], *, retries: bool = True) -> Recording:
    """Make a recording. ``retries``: whether calls that an SDK made again count as calls."""
    made, unknown = Recording(), list[RecordedCall]()
    means: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
    loads: dict[tuple[str, int], int] = defaultdict(int)
    refusing: set[str] = set()
    for at, record in records:
        call = _call(at, record)
        if call is None or (not retries and record["client_retry"]):
            made.left_out += 1
            continue
        made.calls.append(call)
        if record["input_tokens"] is None:
            unknown.append(call)
        else:
            mean = means[call.client, call.deployment]
            mean[0] += 1
            mean[1] += call.prompt
            mean[2] += call.completion
            loads[call.decision.backend, int(at // 60)] += call.prompt + call.completion
            _sample(call, samples[call.decision.backend])
        for attempt in record["attempts"]:
            if attempt["failure"] and attempt["status"] == 429:
                refusing.add(attempt["backend"])
    for call in unknown:
        count, prompt, completion = means.get((call.client, call.deployment), (0, 0, 0))
        if count:
            call.prompt = call.prompt or round(prompt / count)
            call.completion = call.completion or round(completion / count)
    made.speeds = {backend: _speed(found) for backend, found in samples.items() if found}
    for (backend, _), tokens in loads.items():
        if backend in refusing:
            made.observed_limits[backend] = max(tokens, made.observed_limits.get(backend, 0))
    made.calls.sort(key=lambda call: call.at)
    return made


def decision_of(record: Record) -> Decision:
    """Return what became of a recorded call."""
    attempts = record["attempts"]
    backend = attempts[-1]["backend"] if attempts else ""
    cause = refusal_of(record)
    if cause is not None:
        return Decision(record["error"] or cause, backend if record["error"] is None else "")
    if record["outcome"] in ("ok", "truncated"):
        return Decision("served", backend)
    return Decision(record["error"] or record["outcome"], "")


def _call(at: float, record: Record) -> RecordedCall | None:
    if record["call"] is None or record["operation"] not in PATHS or not record["deployment"]:
        return None
    decision = decision_of(record)
    attempts: list[dict[str, Any]] = record["attempts"]
    last = attempts[-1] if attempts and decision.end == "served" else None
    gone = record["outcome"] in CLIENTS_END
    return RecordedCall(
        at=at,
        id=record["call"],
        client=record["client"] or "",
        deployment=record["asked_deployment"] or record["deployment"],
        operation=record["operation"],
        stream=bool(record["streaming"]),
        most=record["max_tokens"],
        priority=record["priority"],
        prompt=record["input_tokens"] or record["prompt_tokens_counted"] or 0,
        completion=record["output_tokens"] or record["delivered_tokens"] or 0,
        cached=record["cached_tokens"] or 0,
        decision=decision,
        cost=record["cost"],
        waited=(record["waited_ms"] or 0.0) / 1000,
        spilled=bool(attempts) and (len(attempts) > 1 or bool(attempts[0]["skipped"])),
        begin=_seconds(last["answered_ms"]) if last else None,
        duration=_seconds(last["duration_ms"]) if last else None,
        status=record["status"] if decision.end == "served" and record["status"] else 200,
        patience=_seconds(record["duration_ms"]) if gone else None,
        faults=_faults(attempts),
    )


def _faults(attempts: list[dict[str, Any]]) -> Mapping[str, Fault]:
    if len(attempts) == 1 and not attempts[0]["failure"]:
        return NO_FAULTS
    return {
        attempt["backend"]: Fault(attempt["status"], _seconds(attempt["duration_ms"]) or 0.0)
        for attempt in attempts
        if attempt["failure"] and attempt["status"] != 429
    }


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _sample(call: RecordedCall, samples: list[tuple[float, float]]) -> None:
    if call.begin is None or call.duration is None or call.status >= 400 or len(samples) >= MOST_SAMPLES:
        return
    # An answer that is no stream begins when all of it is there.
    begin = call.begin if call.stream else 0.0
    tokens = call.completion / (call.duration - begin) if call.duration > begin else 0.0
    samples.append((call.begin if call.stream else call.duration, tokens))


def _speed(samples: list[tuple[float, float]]) -> Speed:
    tokens = [speed for _, speed in samples if speed > 0]
    return Speed(median(begin for begin, _ in samples), median(tokens) if tokens else DEFAULT_SPEED)
