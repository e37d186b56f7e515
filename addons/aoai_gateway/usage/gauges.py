"""What metrics tell of how things stand now: how full backends are, and what sinks have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, override

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

UTILIZATION_SECONDS = 120.0
"""For how long what an answer says of its backend's utilisation is told."""


class Utilization(Collector):
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
