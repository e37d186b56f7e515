"""What calls came to, as Prometheus counters and histograms. How things stand now is `admin.metrics`.

Labels are bounded: names of clients, backends and classes are the configuration's, statuses are told in a few
words, and of deployments, whose names clients may make up, those are told apart that exist
(:mod:`~aoai_gateway.usage.counts`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.counts import OTHER, Counts, DeploymentLabels, Distribution, Utilization
from aoai_gateway.usage.record import QUOTA_EXCEEDED, cost_of
from aoai_gateway.wire.backend_errors import OUT_OF_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.usage.counts import Series
    from aoai_gateway.usage.early import EarlyAnswer
    from aoai_gateway.wire.usage import Usage

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
WAIT_SECONDS = (0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
GAP_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

MOST_KINDS = 2_000
"""Kinds of calls whose series are kept; clients may spell a deployment in many ways."""


class Metrics:
    """The metrics of one gateway process, in a registry of their own."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._utilization = Utilization(monotonic, registry)
        self._deployments = DeploymentLabels()
        self._failed: dict[str, int] = {}
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        counts, distribution = partial(Counts, registry=registry), partial(Distribution, registry=registry)
        where = ("client", "deployment", "backend")
        self._calls = counts(
            "aoai_gateway_calls",
            "Calls that have ended. outcome: ok, throttled (a backend's 429), backend_error, client_error, "
            "rejected, backends_out, truncated, client_gone, client_stalled, bug.",
            (*where, "outcome"),
        )
        self._early = counts(
            "aoai_gateway_early_answers",
            "Requests that were answered before they became calls.",
            ("status", "error"),
        )
        self._tokens = counts(
            "aoai_gateway_tokens",
            "Tokens of calls. kind: input, output; cached and input_audio are parts of input, cached_audio "
            "of cached, reasoning and output_audio of output.",
            (*where, "kind"),
        )
        self._cost = counts("aoai_gateway_cost", "What calls cost by the price table.", where)
        self._attempts = counts(
            "aoai_gateway_attempts",
            "Attempts at backends. result: ok, a status, or how it failed.",
            ("backend", "result"),
        )
        self._failovers = counts(
            "aoai_gateway_failovers", "Attempts after which another one was made.", ("deployment", "result")
        )
        self._fallbacks = counts(
            "aoai_gateway_fallbacks",
            "Calls that another virtual deployment served, since theirs could not. cause: content_filter, …",
            ("from_deployment", "to_deployment", "cause"),
        )
        self._spillovers = counts(
            "aoai_gateway_spillovers",
            "Attempts that Azure spilled over from a provisioned deployment to a standard one.",
            ("backend",),
        )
        self._tiers = counts(
            "aoai_gateway_service_tiers",
            "Served calls that asked for a service tier or got one, by both.",
            ("deployment", "requested", "served"),
        )
        self._breaks = counts("aoai_gateway_breaks_opened", "Breaks that attempts opened.", ("backend",))
        self._quotas = counts(
            "aoai_gateway_quota_refusals",
            "Calls that did not fit a quota. action: refused, waited or degraded, dry_run.",
            ("client", "deployment", "quota", "action"),
        )
        self._sheds = counts(
            "aoai_gateway_sheds",
            "Calls for which no backend was free. code: the error's.",
            ("deployment", "priority", "code"),
        )
        self._duration = distribution(
            "aoai_gateway_call_seconds",
            "How long calls took that a backend answered well.",
            ("deployment", "streaming"),
            SECONDS,
        )
        self._first_token = distribution(
            "aoai_gateway_first_token_seconds",
            "Of streams, from the call's begin to the first content.",
            ("deployment",),
            SECONDS,
        )
        self._gap = distribution(
            "aoai_gateway_chunk_gap_seconds",
            "Of streams, the median time between two chunks.",
            ("deployment",),
            GAP_SECONDS,
        )
        self._queue_wait = distribution(
            "aoai_gateway_queue_wait_seconds",
            "Time in a queue, of calls that waited in one.",
            ("priority",),
            WAIT_SECONDS,
        )
        self._overhead = distribution(
            "aoai_gateway_overhead_seconds",
            "Time of a call in which it neither waited nor was at a backend.",
            (),
            OVERHEAD_SECONDS,
        )
        self._overheads = self._overhead.series(())
        self._lag = distribution(
            "aoai_gateway_loop_lag_seconds",
            "By how much a timer of the event loop was late, looked at twice a second.",
            (),
            LAG_SECONDS,
        )

    def text(self) -> bytes:
        """Write all that was counted in Prometheus' text format."""
        return generate_latest(self.registry)

    def finished(self, call: Call) -> None:
        """Count a call that has ended."""
        attempts, usage, status = call.attempts, call.usage, call.status
        attempt = attempts[-1] if attempts else None
        backend = attempt.backend.name if attempt is not None else ""
        key = (call.client.name, call.deployment, backend, call.outcome, status, call.streaming)
        kind = self._kinds.get(key) or self._kind(key, call)
        client, deployment, _ = kind.where
        kind.calls[0] += 1
        if usage is not None:
            self._count_tokens(kind, usage)
        if call.served:
            if call.setup.config.prices and (cost := cost_of(call)):
                self._cost.add(kind.where, cost)
            requested = call.requested_tier
            if requested or call.service_tier:
                self._tiers.add((deployment, _tier_of(requested), _tier_of(call.service_tier)))
        if len(attempts) == 1 and not call.fell_back and _is_plain(attempts[0], status):
            if kind.attempts is None:
                kind.attempts = self._attempts.series((backend, _result_of(attempts[0])))
            kind.attempts[0] += 1
        else:
            self._count_attempts(call, deployment)
        if call.policy or call.error is not None:
            self._count_refusals(call, client, deployment)
        if call.ended is not None:
            self._observe_times(call, kind, call.ended)

    def _kind(self, key: tuple[object, ...], call: Call) -> _Kind:
        """Return what calls of a kind count in, and keep it if that is the same for later ones."""
        attempt, label = call.attempt, self._label(call)
        where = (call.client.name, label, attempt.backend.name if attempt is not None else "")
        kind = _Kind(where, self._calls.series((*where, _outcome_of(call))), _Tokens(self._tokens, where))
        if call.outcome is Outcome.OK and (call.status or 0) < 400:
            kind.times = (label, "true" if call.streaming else "false")
        # A deployment may have a label of its own as soon as something shows that it exists.
        if label != OTHER:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            self._kinds[key] = kind
        return kind

    @staticmethod
    def _count_tokens(kind: _Kind, usage: Usage) -> None:
        counts = kind.tokens
        if usage.input_tokens:
            counts["input"][0] += usage.input_tokens
        if usage.output_tokens:
            counts["output"][0] += usage.output_tokens
        if usage.cached_tokens:
            counts["cached"][0] += usage.cached_tokens
        if usage.reasoning_tokens:
            counts["reasoning"][0] += usage.reasoning_tokens
        if usage.input_audio_tokens or usage.cached_audio_tokens or usage.output_audio_tokens:
            for name, tokens in (
                ("input_audio", usage.input_audio_tokens),
                ("cached_audio", usage.cached_audio_tokens),
                ("output_audio", usage.output_audio_tokens),
            ):
                if tokens:
                    counts[name][0] += tokens

    def answered_early(self, answer: EarlyAnswer) -> None:
        """Count a request that was answered before it became a call."""
        self._early.add((str(answer.status), answer.error or ""))

    def failed_attempts(self, backend: str) -> int:
        """Return how many attempts at a backend have failed so far."""
        return self._failed.get(backend, 0)

    def lag(self, seconds: float) -> None:
        """Note by how much a timer was late."""
        self._lag.add((), max(0.0, seconds))

    def _count_attempts(self, call: Call, deployment: str) -> None:
        last = len(call.attempts)
        for step in call.fell_back:
            # Both are names of the configuration.
            start, end = (self._deployments.label(name, exists=True) for name in (step.start, step.end))
            self._fallbacks.add((start, end, step.refusal.value))
        for attempt in call.attempts:
            result = _result_of(attempt)
            self._attempts.add((attempt.backend.name, result))
            if attempt.utilization is not None:
                self._utilization.told(attempt.backend.name, attempt.utilization)
            if attempt.spillover is not None:
                self._spillovers.add((attempt.backend.name,))
            if attempt.is_backends_failure:
                name = attempt.backend.name
                self._failed[name] = self._failed.get(name, 0) + 1
            if attempt.number < last:
                self._failovers.add((deployment, result))
            if attempt.break_seconds is not None:
                self._breaks.add((attempt.backend.name,))

    def _count_refusals(self, call: Call, client: str, deployment: str) -> None:
        refused = call.error is not None and call.error.code in QUOTA_EXCEEDED
        for each in call.policy:
            if each.action == "quota":
                action = "dry_run" if each.dry_run else "refused" if refused else "waited or degraded"
                over = "(total)" if each.deployment is None else deployment
                self._quotas.add((client, over, each.what, action))
        if call.outcome is Outcome.BACKENDS_OUT and call.error is not None and call.error.status == 429:
            self._sheds.add((deployment, _class_of(call), call.error.code))

    def _observe_times(self, call: Call, kind: _Kind, ended: float) -> None:
        started, attempts, deployment = call.started, call.attempts, kind.where[1]
        duration = ended - started
        if call.queue_wait > 0:
            self._queue_wait.add((_class_of(call),), call.queue_wait)
        if len(attempts) == 1:
            sent = (attempts[0].ended or ended) - attempts[0].started
        else:
            sent = sum((a.ended or ended) - a.started for a in attempts)
        own = duration - call.waited - sent
        self._overhead.add_to(self._overheads, own if own > 0 else 0.0)
        if kind.times is not None:
            if kind.durations is None:
                kind.durations = self._duration.series(kind.times)
            self._duration.add_to(kind.durations, duration)
            if call.first_content is not None and call.streaming:
                self._first_token.add((deployment,), call.first_content - started)
        if call.chunk_gaps is not None:
            self._gap.add((deployment,), call.chunk_gaps[0])

    def _label(self, call: Call) -> str:
        name = call.deployment
        exists = name in call.setup.config.virtual_deployments or (call.served and call.status == 200)
        return self._deployments.label(name, exists=exists)


class _Tokens(dict[str, "Series"]):
    """The series of tokens of a kind of calls, by the kind of token; each begins when it is looked up."""

    def __init__(self, counts: Counts, where: tuple[str, str, str]) -> None:
        super().__init__()
        self._counts, self._where = counts, where

    def __missing__(self, name: str) -> Series:
        found = self[name] = self._counts.series((*self._where, name))
        return found


@dataclass(slots=True)
class _Kind:
    """What calls of a kind count in: those of a client, a deployment and a backend that ended alike.

    A series is there from the first call on that counts in it.
    """

    where: tuple[str, str, str]
    """Their labels: client, deployment, backend."""
    calls: Series
    tokens: dict[str, Series]
    """By the kind of token; what is looked up is there."""
    attempts: Series | None = None
    """Of their attempts, where each had but one, and nothing happened in it."""
    times: tuple[str, str] | None = None
    """The labels under which their durations count, if they do."""
    durations: Series | None = None


def _is_plain(attempt: Attempt, status: int | None) -> bool:
    """Whether an attempt counts as what its call ended with, and nowhere else."""
    return (
        attempt.status == status
        and attempt.failure is None
        and attempt.utilization is None
        and attempt.refusal is None
        and attempt.break_seconds is None
        and attempt.spillover is None
    )


# --- labels ------------------------------------------------------------------------------------------------

_OUTCOMES = {
    Outcome.REJECTED: "rejected",
    Outcome.BACKENDS_OUT: "backends_out",
    Outcome.TRUNCATED: "truncated",
    Outcome.CLIENT_GONE: "client_gone",
    Outcome.CLIENT_STALLED: "client_stalled",
    Outcome.ERROR: "bug",
}

_TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})
"""Service tiers that are told apart."""


def _outcome_of(call: Call) -> str:
    """Say in a word how a call ended, as the metric ``aoai_gateway_calls_total`` has it."""
    if call.outcome is not None and call.outcome is not Outcome.OK:
        return _OUTCOMES[call.outcome]
    status = call.status or 0
    if status in OUT_OF_CAPACITY:
        return "throttled"
    return "backend_error" if status >= 500 else "client_error" if status >= 400 else "ok"


def _result_of(attempt: Attempt) -> str:
    """Say in a word how an attempt ended: ``ok``, a status, or a kind of failure."""
    if attempt.refusal is not None:
        return attempt.refusal.value
    if attempt.failure is None:
        return "ok" if (attempt.status or 0) < 400 else f"{(attempt.status or 0) // 100}xx"
    if attempt.failure is FailureKind.STATUS:
        return str(attempt.status)
    return attempt.failure.value


def _tier_of(name: str | None) -> str:
    """Name a tier; any other text that a client or an answer may hold is one value."""
    return "" if name is None else name if name in _TIERS else OTHER


def _class_of(call: Call) -> str:
    """Name a call's class; empty if that was not known."""
    return call.cls.name if call.cls is not None else ""
