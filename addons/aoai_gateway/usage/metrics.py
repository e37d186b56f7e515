"""What calls came to, as Prometheus counters and histograms. How things stand now is `admin.metrics`.

Labels are bounded: names of clients, backends and classes are the configuration's, statuses are told in a few
words, and of deployments, whose names clients may make up, those are told apart that exist
(:mod:`~aoai_gateway.usage.deployment_labels`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, override

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.counts import Counts, Distribution
from aoai_gateway.usage.deployment_labels import OTHER, DeploymentLabels
from aoai_gateway.usage.record import QUOTA_EXCEEDED, cost_of
from aoai_gateway.wire.failure_codes import OUT_OF_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.usage.early import EarlyAnswer

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
WAIT_SECONDS = (0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
GAP_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

OUTCOMES = {
    Outcome.REJECTED: "rejected",
    Outcome.BACKENDS_OUT: "backends_out",
    Outcome.TRUNCATED: "truncated",
    Outcome.CLIENT_GONE: "client_gone",
    Outcome.CLIENT_STALLED: "client_stalled",
    Outcome.ERROR: "bug",
}


UTILIZATION_SECONDS = 120.0
"""For how long what an answer says of its backend's utilisation is told."""

TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})
"""Service tiers that are told apart."""


class Metrics:
    """The metrics of one gateway process, in a registry of their own."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._utilization = _Utilization(monotonic, registry)
        self._deployments = DeploymentLabels()
        self._failed: dict[str, int] = {}
        where = ("client", "deployment", "backend")
        self._calls = Counts(
            "aoai_gateway_calls",
            "Calls that have ended. outcome: ok, throttled (a backend's 429), backend_error, client_error, "
            "rejected, backends_out, truncated, client_gone, client_stalled, bug.",
            (*where, "outcome"),
            registry,
        )
        self._early = Counts(
            "aoai_gateway_early_answers",
            "Requests that were answered before they became calls.",
            ("status", "error"),
            registry,
        )
        self._tokens = Counts(
            "aoai_gateway_tokens",
            "Tokens of calls. kind: input, output; cached and input_audio are parts of input, cached_audio "
            "of cached, reasoning and output_audio of output.",
            (*where, "kind"),
            registry,
        )
        self._cost = Counts("aoai_gateway_cost", "What calls cost by the price table.", where, registry)
        self._attempts = Counts(
            "aoai_gateway_attempts",
            "Attempts at backends. result: ok, a status, or how it failed.",
            ("backend", "result"),
            registry,
        )
        self._failovers = Counts(
            "aoai_gateway_failovers",
            "Attempts after which another one was made.",
            ("deployment", "result"),
            registry,
        )
        self._fallbacks = Counts(
            "aoai_gateway_fallbacks",
            "Calls that another virtual deployment served, since theirs could not. cause: content_filter, …",
            ("from_deployment", "to_deployment", "cause"),
            registry,
        )
        self._spillovers = Counts(
            "aoai_gateway_spillovers",
            "Attempts that Azure spilled over from a provisioned deployment to a standard one.",
            ("backend",),
            registry,
        )
        self._tiers = Counts(
            "aoai_gateway_service_tiers",
            "Served calls that asked for a service tier or got one, by both.",
            ("deployment", "requested", "served"),
            registry,
        )
        self._breaks = Counts(
            "aoai_gateway_breaks_opened", "Breaks that attempts opened.", ("backend",), registry
        )
        self._quotas = Counts(
            "aoai_gateway_quota_refusals",
            "Calls that did not fit a quota. action: refused, waited or degraded, dry_run.",
            ("client", "deployment", "quota", "action"),
            registry,
        )
        self._sheds = Counts(
            "aoai_gateway_sheds",
            "Calls for which no backend was free. code: the error's.",
            ("deployment", "priority", "code"),
            registry,
        )
        self._duration = Distribution(
            "aoai_gateway_call_seconds",
            "How long calls took that a backend answered well.",
            ("deployment", "streaming"),
            SECONDS,
            registry,
        )
        self._first_token = Distribution(
            "aoai_gateway_first_token_seconds",
            "Of streams, from the call's begin to the first content.",
            ("deployment",),
            SECONDS,
            registry,
        )
        self._gap = Distribution(
            "aoai_gateway_chunk_gap_seconds",
            "Of streams, the median time between two chunks.",
            ("deployment",),
            GAP_SECONDS,
            registry,
        )
        self._queue_wait = Distribution(
            "aoai_gateway_queue_wait_seconds",
            "Time in a queue, of calls that waited in one.",
            ("priority",),
            WAIT_SECONDS,
            registry,
        )
        self._overhead = Distribution(
            "aoai_gateway_overhead_seconds",
            "Time of a call in which it neither waited nor was at a backend.",
            (),
            OVERHEAD_SECONDS,
            registry,
        )
        self._lag = Distribution(
            "aoai_gateway_loop_lag_seconds",
            "By how much a timer of the event loop was late, looked at twice a second.",
            (),
            LAG_SECONDS,
            registry,
        )

    def text(self) -> bytes:
        """Write all that was counted in Prometheus' text format."""
        return generate_latest(self.registry)

    def finished(self, call: Call) -> None:
        """Count a call that has ended."""
        attempt, usage = call.attempt, call.usage
        client, deployment = call.client.name, self._label(call)
        backend = attempt.backend.name if attempt is not None else ""
        self._calls.add((client, deployment, backend, outcome_of(call)))
        if usage is not None:
            for kind, tokens in (
                ("input", usage.input_tokens),
                ("output", usage.output_tokens),
                ("cached", usage.cached_tokens),
                ("reasoning", usage.reasoning_tokens),
                ("input_audio", usage.input_audio_tokens),
                ("cached_audio", usage.cached_audio_tokens),
                ("output_audio", usage.output_audio_tokens),
            ):
                if tokens:
                    self._tokens.add((client, deployment, backend, kind), tokens)
        cost = cost_of(call)
        if cost:
            self._cost.add((client, deployment, backend), cost)
        self._count_attempts(call, deployment)
        if call.served and (call.requested_tier or call.service_tier):
            tiers = (_tier(call.requested_tier), _tier(call.service_tier))
            self._tiers.add((deployment, *tiers))
        self._count_refusals(call, client, deployment)
        self._observe_times(call, deployment)

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
            result = result_of(attempt)
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
            self._sheds.add((deployment, _class(call), call.error.code))

    def _observe_times(self, call: Call, deployment: str) -> None:
        if call.ended is None:
            return
        duration = call.ended - call.started
        if call.queue_wait > 0:
            self._queue_wait.add((_class(call),), call.queue_wait)
        sent = sum((a.ended or call.ended) - a.started for a in call.attempts)
        self._overhead.add((), max(0.0, duration - call.waited - sent))
        if call.outcome is Outcome.OK and (call.status or 0) < 400:
            self._duration.add((deployment, "true" if call.streaming else "false"), duration)
            if call.streaming and call.first_content is not None:
                self._first_token.add((deployment,), call.first_content - call.started)
        if call.chunk_gaps is not None:
            self._gap.add((deployment,), call.chunk_gaps[0])

    def _label(self, call: Call) -> str:
        name = call.deployment
        exists = name in call.setup.config.virtual_deployments or (call.served and call.status == 200)
        return self._deployments.label(name, exists=exists)


class _Utilization(Collector):
    """How full provisioned backends have last said to be, for as long as that is news."""

    def __init__(self, monotonic: Callable[[], float], registry: CollectorRegistry) -> None:
        self._monotonic = monotonic
        self._told: dict[str, tuple[float, float]] = {}
        registry.register(self)

    def told(self, backend: str, share: float) -> None:
        """Take what an answer says."""
        self._told[backend] = (share, self._monotonic())

    @override
    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "aoai_gateway_backend_utilization_ratio",
            "How full a provisioned backend's last answer said it was; 1 is full. Not there without answers.",
            labels=("backend",),
        )
        oldest = self._monotonic() - UTILIZATION_SECONDS
        for backend, (share, at) in list(self._told.items()):
            if at > oldest:
                family.add_metric((backend,), share)
        yield family


class SinkCounts(Collector):
    """What sinks have written and lost; ``counts`` gives both by a sink's name."""

    def __init__(self, counts: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        self._counts = counts

    @override
    def collect(self) -> Iterator[Metric]:
        label = ("sink",)
        written = CounterMetricFamily(
            "aoai_gateway_sink_records", "Usage records that a sink has written.", labels=label
        )
        dropped = CounterMetricFamily(
            "aoai_gateway_sink_dropped", "Usage records that a sink has lost.", labels=label
        )
        for name, (records, lost) in self._counts().items():
            written.add_metric((name,), records)
            dropped.add_metric((name,), lost)
        yield written
        yield dropped


def outcome_of(call: Call) -> str:
    """Say in a word how a call ended, as the metric ``aoai_gateway_calls_total`` has it."""
    if call.outcome is not None and call.outcome is not Outcome.OK:
        return OUTCOMES[call.outcome]
    status = call.status or 0
    if status in OUT_OF_CAPACITY:
        return "throttled"
    return "backend_error" if status >= 500 else "client_error" if status >= 400 else "ok"


def result_of(attempt: Attempt) -> str:
    """Say in a word how an attempt ended: ``ok``, a status, or a kind of failure."""
    if attempt.refusal is not None:
        return attempt.refusal.value
    if attempt.failure is None:
        return "ok" if (attempt.status or 0) < 400 else f"{(attempt.status or 0) // 100}xx"
    if attempt.failure is FailureKind.STATUS:
        return str(attempt.status)
    return attempt.failure.value


def _tier(name: str | None) -> str:
    """Name a tier; any other text that a client or an answer may hold is one value."""
    return "" if name is None else name if name in TIERS else OTHER


def _class(call: Call) -> str:
    return call.cls.name if call.cls is not None else ""
