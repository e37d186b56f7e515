"""Counters and histograms are told as prometheus-client tells its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from aoai_gateway.usage.counts import Counts, Distribution

BOUNDS = (0.005, 0.1, 1, 30)
VALUES = (0.0, 0.005, 0.0051, 0.1, 1, 1.5, 30, 31, 1e6)


@pytest.fixture(autouse=True)
def without_times() -> Iterator[None]:
    """A time for each series would be half of what is scraped, and nothing asks for it."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    yield
    prometheus_client.enable_created_metrics()  # type: ignore[no-untyped-call]


def test_counts_are_told_as_a_counter() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("calls", "Calls, and \\ more.", ("client", "outcome"), ours)
    counter = Counter("calls", "Calls, and \\ more.", ("client", "outcome"), registry=theirs)
    assert generate_latest(ours) == generate_latest(theirs)
    for labels, amount in ((("a", "ok"), 1), (('b"\n', "ok"), 2.5), (("a", "ok"), 3), (("a", ""), 1e21)):
        counts.add(labels, amount)
        counter.labels(*labels).inc(amount)
    assert generate_latest(ours) == generate_latest(theirs)


@pytest.mark.parametrize("labels", [(), ("deployment",), ("deployment", "streaming")])
def test_a_distribution_is_told_as_a_histogram(labels: tuple[str, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("seconds", "How long.", labels, BOUNDS, ours)
    histogram = Histogram("seconds", "How long.", labels, buckets=BOUNDS, registry=theirs)
    assert generate_latest(ours) == generate_latest(theirs), "there before the first value, or not"
    for number, value in enumerate(VALUES):
        values = tuple(f"{label} {number % 2}" for label in labels)
        distribution.add(values, value)
        (histogram.labels(*values) if labels else histogram).observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


def test_a_scrape_in_another_thread_finds_whole_histograms() -> None:
    registry = CollectorRegistry()
    distribution = Distribution("seconds", "How long.", ("name",), BOUNDS, registry)
    over, broken = threading.Event(), list[str]()

    def scrape() -> None:
        while not over.is_set():
            for metric in registry.collect():
                last = [s.value for s in metric.samples if s.labels.get("le") == "+Inf"]
                counts = [s.value for s in metric.samples if s.name == "seconds_count"]
                broken.extend("differs" for _ in range(last != counts))

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(20_000):
        distribution.add((str(number % 500),), 0.01)
    over.set()
    thread.join()
    assert not broken
