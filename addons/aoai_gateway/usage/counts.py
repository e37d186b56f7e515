"""Counters and histograms for Prometheus, which cost a call next to nothing: numbers in a dictionary.

prometheus-client's own take a lock and a look-up of a child object, 1 to 2 µs a count, and a call is counted
in a dozen places. These are counted by the event loop alone, and become its families when they are asked for.
That may be in another thread: it copies what it reads in one step.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, override

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

type Labels = tuple[str, ...]


class Counts(Collector):
    """A counter; its name is without ``_total``."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._values: dict[Labels, float] = {}
        registry.register(self)

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count so many more."""
        values = self._values
        values[labels] = values.get(labels, 0) + amount

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        yield family


class Distribution(Collector):
    """A histogram. Without labels it is there from the start, with zeros."""

    def __init__(
        self, name: str, about: str, labels: Labels, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._about, self._labels, self._bounds = name, about, labels, tuple(bounds)
        self._ends = (*map(floatToGoString, bounds), "+Inf")
        self._values: dict[Labels, list[float]] = {}
        """For each bucket how many values it has, and last their sum."""
        if not labels:
            self._values[()] = self._none()
        registry.register(self)

    def add(self, labels: Labels, value: float) -> None:
        """Count a value."""
        found = self._values.get(labels)
        if found is None:
            found = self._values[labels] = self._none()
        found[bisect_left(self._bounds, value)] += 1
        found[-1] += value

    def _none(self) -> list[float]:
        return [0] * (len(self._bounds) + 2)

    @override
    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, values in list(self._values.items()):
            *counts, total = values.copy()
            family.add_metric(labels, list(zip(self._ends, accumulate(counts), strict=True)), total)
        yield family
