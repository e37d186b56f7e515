"""How things stand now, for Prometheus: made of the state's snapshot at each scrape.

The state is read on the event loop; the text is made of it in a thread, since with many clients and backends
that takes a while.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from aoai_gateway.admin.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from aoai_gateway.runtime.gateway import Gateway

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

type Rows = list[tuple[tuple[str, ...], float | None]]


async def metrics(gateway: Gateway) -> bytes:
    """Return all metrics of a gateway in Prometheus's text format."""
    document = await snapshot(gateway)
    return await asyncio.to_thread(render, gateway.metrics.registry, document)


def render(counted: CollectorRegistry, document: dict[str, Any]) -> bytes:
    """Write what was counted, and how things stand by a snapshot."""
    now = CollectorRegistry()
    now.register(_Standing(document))
    return generate_latest(counted) + generate_latest(now)


class _Standing(Collector):
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_gateway(self._document["gateway"])
        yield from self._of_endpoints(self._document["endpoints"])
        yield from self._of_backends(self._document["backends"])
        yield from self._of_deployments(self._document["deployments"], self._document["priorities"])
        yield from self._of_clients(self._document["clients"])
        yield from self._of_sinks(self._document["sinks"])

    def _of_the_gateway(self, about: dict[str, Any]) -> Iterator[Metric]:
        yield _gauge("info", "The version that runs.", ("version",), [((about["version"],), 1)])
        ready = float(about["status"] in ("ready", "degraded"))
        yield _gauge("ready", "1 if it takes calls, 0 while it starts or drains.", (), [((), ready)])
        kinds = Counter(dict.fromkeys(TROUBLES, 0))
        kinds.update(each["kind"] for each in about["trouble"])
        rows: Rows = [((kind,), float(count)) for kind, count in kinds.items()]
        yield _gauge("trouble", "What is wrong now, as on the status page, by kind.", ("kind",), rows)
        yield _gauge("in_flight", "Calls under way, but not in a queue.", (), [((), about["in_flight"])])
        yield _gauge("uptime_seconds", "Since it was started.", (), [((), about["uptime_seconds"])])
        lost = float(about["state"].startswith("degraded"))
        yield _gauge("shared_state_lost", "1 while the shared store is out of reach.", (), [((), lost)])
        expiry: Rows = [((each["name"],), each["seconds_left"]) for each in about["expiries"]]
        yield _gauge("expiry_seconds", "Until a certificate or key is no longer valid.", ("name",), expiry)

    def _of_endpoints(self, endpoints: list[dict[str, Any]]) -> Iterator[Metric]:
        rows: Rows = [((each["name"],), each["opened_ahead"]) for each in endpoints]
        about = "Connections that are open, and that no call has needed yet."
        yield _gauge("connections_opened_ahead", about, ("endpoint",), rows)

    def _of_backends(self, backends: list[dict[str, Any]]) -> Iterator[Metric]:
        def each(key: str) -> Rows:
            return [((b["name"],), b[key]) for b in backends]

        name = ("backend",)
        yield _gauge(
            "backend_available",
            "1 if it may be tried by some class, 0 in a break, not there if it is switched off.",
            name,
            [((b["name"],), _available(b)) for b in backends],
        )
        yield _gauge("backend_headroom", "The share of its capacity that is free.", name, each("headroom"))
        yield _gauge("backend_in_flight", "Calls that are at it.", name, each("in_flight"))
        about = "Its limit, declared or learned."
        yield _gauge("backend_tokens_per_minute", about, name, each("tokens_per_minute"))

    def _of_deployments(self, deployments: list[dict[str, Any]], classes: list[str]) -> Iterator[Metric]:
        yield _gauge(
            "deployment_available_backends",
            "Backends that may be tried now by clients of the default class.",
            ("deployment",),
            [((d["name"],), d["available"]) for d in deployments],
        )
        yield _gauge(
            "queue_length",
            "Calls in the queue, by class.",
            ("deployment", "priority"),
            [
                ((d["name"], cls), waiting)
                for d in deployments
                for cls, waiting in _by_class(d["line"], classes).items()
            ],
        )
        yield _gauge(
            "longest_wait_seconds",
            "For how long the call has waited that has waited longest.",
            ("deployment",),
            [((d["name"],), d["line"]["longest_wait_seconds"] or 0.0) for d in deployments],
        )

    def _of_clients(self, clients: list[dict[str, Any]]) -> Iterator[Metric]:
        rows: Rows = [
            ((c["name"], q["deployment"] or "(total)", q["kind"]), q["used"] / q["limit"])
            for c in clients
            for q in c["quotas"]
            if q["limit"]
        ]
        labels = ("client", "deployment", "quota")
        yield _gauge("quota_used_ratio", "The share of a quota that is used or reserved.", labels, rows)

    def _of_sinks(self, sinks: list[dict[str, Any]]) -> Iterator[Metric]:
        waiting: Counter[str] = Counter()
        for sink in sinks:
            waiting[sink["name"]] += sink["waiting"]
        rows: Rows = [((name,), count) for name, count in waiting.items()]
        yield _gauge("sink_waiting", "Usage records that wait to be written.", ("sink",), rows)


TROUBLES = ("pool_empty", "failing", "sink", "expiry", "shared_state", "configuration")
"""The kinds of trouble that the status page shows."""


def _gauge(name: str, about: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"aoai_gateway_{name}", about, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _by_class(queue: dict[str, Any], classes: list[str]) -> dict[str, float]:
    """Return how many calls of each class wait; of most classes none do."""
    # A call keeps the class that it came in with, when the configuration no longer has it.
    return dict.fromkeys(classes, 0.0) | {each["priority"]: each["waiting"] for each in queue["classes"]}


def _available(backend: dict[str, Any]) -> float | None:
    if backend["switched_off"]:
        return None
    return float(any(cls["break"] is None for cls in backend["classes"]))
