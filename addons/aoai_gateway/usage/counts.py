"""Collectors for Prometheus: counters and histograms that cost a call next to nothing.

Two more read the present state: backends' utilisation, sinks' counts.

prometheus-client's own take a lock and a look-up of a child object, 1 to 2 µs a count, and a call is counted
in a dozen places. These are numbers in a dictionary, counted by the event loop alone, and become its families
when they are asked for.
That may be in another thread: it copies what it reads in one step. Code that counts much under the same
labels keeps the series itself, and adds to that. Names of deployments become labels only within a bound
(`DeploymentLabels`): each is a series, and clients may make names up.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, override

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

type Labels = tuple[str, ...]

type Series = list[float]
"""What is counted under some labels: of a counter one number, of a histogram its buckets and their sum."""


class Counts(Collector):
    """A counter; its name is without ``_total``."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._values: dict[Labels, Series] = {}
        registry.register(self)

    def series(self, labels: Labels) -> Series:
        """Return the series of these labels, whose one number may be added to; it is there from now on."""
        found = self._values.get(labels)
        if found is None:
            found = self._values[labels] = [0]
        return found

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count so many more."""
        self.series(labels)[0] += amount

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, (value,) in list(self._values.items()):
            family.add_metric(labels, value)
        yield family


class Distribution(Collector):
    """A histogram. Without labels it is there from the start, with zeros."""

    def __init__(
        self, name: str, about: str, labels: Labels, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._about, self._labels, self._bounds = name, about, labels, tuple(bounds)
        self._ends = (*map(floatToGoString, bounds), "+Inf")
        self._values: dict[Labels, Series] = {}
        """For each bucket how many values it has, and last their sum."""
        if not labels:
            self.series(())
        registry.register(self)

    def series(self, labels: Labels) -> Series:
        """Return the series of these labels, for `add_to`; it is there from now on."""
        found = self._values.get(labels)
        if found is None:
            found = self._values[labels] = [0] * (len(self._bounds) + 2)
        return found

    def add(self, labels: Labels, value: float) -> None:
        """Count a value."""
        self.add_to(self.series(labels), value)

    def add_to(self, series: Series, value: float) -> None:
        """Count a value in one of its series."""
        series[bisect_left(self._bounds, value)] += 1
        series[-1] += value

    @override
    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, values in list(self._values.items()):
            *counts, total = values.copy()
            family.add_metric(labels, list(zip(self._ends, accumulate(counts), strict=True)), total)
        yield family


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


MOST_DEPLOYMENTS = 200

OTHER = "(other)"


class DeploymentLabels:
    """The labels that have been given.

    A name has a label of its own if the configuration has the deployment, or if a backend has once answered a
    call for it well, as where every name is passed on to Azure.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {"": ""}

    def label(self, deployment: str, *, exists: bool) -> str:
        """Return the label of a deployment. ``exists``: whether this call shows that there is one."""
        # Azure makes no difference between upper and lower case.
        key = deployment.casefold()
        found = self._labels.get(key)
        if found is not None:
            return found
        if not exists or len(self._labels) > MOST_DEPLOYMENTS:
            return OTHER
        self._labels[key] = deployment
        return deployment
