"""The whole state of a gateway as a plain document, for the page, the terminal and the JSON API.

It holds names, never URLs of endpoints, keys or tokens, and nothing of any prompt. Its members:
``docs/reference/admin-api.md``.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aoai_gateway.admin.quota_usage import standings, standings_at_once
from aoai_gateway.config.models import StandinAtEndpoint
from aoai_gateway.config.switches import Kind, Switches
from aoai_gateway.proxy.health import state_in_words
from aoai_gateway.routing.backends import Backend, RoutingTable
from aoai_gateway.routing.breaker import BY_HAND, Break
from aoai_gateway.runtime.trouble import troubles
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.scheduler import Scheduler
    from aoai_gateway.identity.renewal import Renewal
    from aoai_gateway.runtime.gateway import Gateway

VERSION = importlib.metadata.version("aoai-gateway")

EVERY_DEPLOYMENT = "(every deployment)"
"""Stands for the pool of a configuration without virtual deployments."""

SOON = timedelta(days=14)


async def snapshot(gateway: Gateway) -> dict[str, Any]:
    """Return the state; asks the store of the counters, so it may take as long as that does (bounded)."""
    quotas = await standings(gateway)
    return _Snapshot(gateway, time.monotonic()).document(quotas)


def snapshot_at_once(gateway: Gateway) -> dict[str, Any]:
    """Return the same without waiting for anything: clients' quotas are left out where they are shared."""
    return _Snapshot(gateway, time.monotonic()).document(standings_at_once(gateway) or {})


class _Snapshot:
    def __init__(self, gateway: Gateway, now: float) -> None:
        gateway.catch_up()
        self._gateway = gateway
        self._now = now
        self._scheduler: Scheduler = gateway.engine.scheduler
        self._calls = list(gateway.calls.values())
        self._sent = Counter(b.key for call in self._calls if (b := _at(call)) is not None)

    def document(self, quotas: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        gateway = self._gateway
        document: dict[str, Any] = {"gateway": self._about()}
        document |= {key: [] for key in ("priorities", "endpoints", "backends", "clients", "deployments")}
        document["traffic"] = gateway.traffic.report(self._now)
        if gateway.written is not None and gateway.setup is not None:
            written, in_force = gateway.written, gateway.setup
            document["priorities"] = [cls.name for cls in written.priority_classes]
            document["endpoints"] = self._endpoints(written)
            document["backends"] = self._backends(written)
            document["clients"] = self._clients(written, quotas)
            document["deployments"] = self._deployments(in_force.config, in_force.table)
        document["sinks"] = [
            {
                "name": sink.name,
                "written": sink.written,
                "dropped": sink.dropped,
                "waiting": sink.waiting,
                "trouble": sink.trouble(self._now) or None,
            }
            for sink in gateway.sinks
        ]
        document["by_hand"] = {
            "switched_off": [{"kind": kind, "name": name} for kind, name in gateway.switches],
            "actions": list(gateway.actions),
        }
        document["identities"] = self._identities()
        return document

    def _about(self) -> dict[str, Any]:
        gateway = self._gateway
        trouble = troubles(gateway)
        status = "starting" if gateway.setup is None else "degraded" if trouble else "ready"
        if gateway.leaving:
            status = "draining"
        return {
            "version": VERSION,
            "status": status,
            "time": rfc3339(self._now + gateway.unix_offset),
            "started": rfc3339(gateway.started + gateway.unix_offset),
            "uptime_seconds": round(self._now - gateway.started, 1),
            "config_file": gateway.config_file,
            "config_loaded": rfc3339(gateway.adopted + gateway.unix_offset)
            if gateway.adopted is not None
            else None,
            "config_errors": list(gateway.config_errors),
            "trouble": [{"kind": each.kind, "text": each.text} for each in trouble],
            "expiries": [
                {"name": name, "seconds_left": round(end - gateway.unix_time(), 1)}
                for name, end in gateway.expiries.items()
            ],
            "state": state_in_words(gateway.state),
            "in_flight": len(self._calls) - gateway.queued,
            "waiting": gateway.queued,
        }

    # --- backends --------------------------------------------------------------------------------------

    def _endpoints(self, written: Config) -> list[dict[str, Any]]:
        found = []
        for endpoint in written.aoai.endpoints:
            off = _off(self._gateway.switches, "endpoint", endpoint.name, endpoint.enabled)
            brk = self._scheduler.breaks.at((endpoint.name, None), self._now)
            found.append(
                {
                    "name": endpoint.name,
                    "simulated": endpoint.simulated is not None,
                    "enabled": off is None,
                    "switched_off": off,
                    "break": self._break(brk, whole=True),
                    "in_flight": sum(n for key, n in self._sent.items() if key.endpoint == endpoint.name),
                    "opened_ahead": self._gateway.opened_ahead.held_for(endpoint),
                }
            )
        return found

    def _backends(self, written: Config) -> list[dict[str, Any]]:
        recent = self._gateway.traffic.backends(self._now)
        return [self._backend(backend, written, recent) for backend in all_backends(written)]

    def _backend(
        self, backend: Backend, written: Config, recent: dict[str, dict[str, list[int]]]
    ) -> dict[str, Any]:
        breaks, standin, now = self._scheduler.breaks, backend.standin, self._now
        switches, endpoint = self._gateway.switches, backend.endpoint
        off = _off(switches, "endpoint", endpoint.name, endpoint.enabled)
        if standin is not None:
            off = off or _off(switches, "standin", backend.name, standin.enabled)
        classes: list[dict[str, Any]] = []
        for cls in written.priority_classes:
            brk = breaks.on(backend, now, cls.name)
            classes.append(
                {
                    "priority": cls.name,
                    "break": self._break(brk, whole=brk is breaks.at((endpoint.name, None), now, cls.name)),
                    "on_probation": breaks.is_half_open(backend, cls.name),
                }
            )
        capacity = self._scheduler.capacities.known(backend)
        limits: tuple[int | None, int | None] = (None, None)
        if capacity is not None:
            limits = capacity.limits(now)
        elif standin is not None:
            limits = standin.tokens_per_minute, standin.requests_per_minute
        return {
            "name": backend.name,
            "endpoint": endpoint.name,
            "standin": standin.name if standin else None,
            "kind": "provisioned" if standin and standin.provisioned else "standard",
            "enabled": off is None,
            "switched_off": off,
            "status": _status(off, classes),
            "classes": classes,
            "breaks_for_some": [
                {"reason": brk.reason, "only": brk.only, "seconds_left": round(brk.remaining(now), 1)}
                for brk in breaks.for_some(backend, now)
            ],
            "headroom": _rounded(capacity.headroom(now), 4) if capacity is not None else None,
            "tokens_per_minute": limits[0],
            "requests_per_minute": limits[1],
            "in_flight": self._sent[backend.key],
            "recent": recent.get(backend.name),
        }

    def _break(self, brk: Break | None, *, whole: bool) -> dict[str, Any] | None:
        if brk is None:
            return None
        return {
            "reason": brk.reason,
            "since": rfc3339(brk.since + self._gateway.unix_offset),
            "seconds_left": round(brk.remaining(self._now), 1),
            "whole_endpoint": whole,
            "by_hand": brk.call_id == BY_HAND,
        }

    # --- clients and deployments -----------------------------------------------------------------------

    def _clients(self, written: Config, quotas: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        recent = self._gateway.traffic.clients(self._now)
        calling = Counter(call.client.name for call in self._calls)
        waiting = Counter(
            request.client
            for name, _ in self._scheduler.queues()
            for request in self._scheduler.waiting(name)
        )
        found = []
        for client in written.clients:
            off = _off(self._gateway.switches, "client", client.name, client.enabled)
            found.append(
                {
                    "name": client.name,
                    "group": client.group,
                    "priority": written.priority_class(client.priority).name,
                    "enabled": off is None,
                    "switched_off": off,
                    "in_flight": calling[client.name] - waiting[client.name],
                    "waiting": waiting[client.name],
                    "dry_run": bool(client.dry_run),
                    "quotas": quotas.get(client.name, []),
                    "recent": recent.get(client.name),
                }
            )
        return found

    def _deployments(self, config: Config, table: RoutingTable) -> list[dict[str, Any]]:
        calling = Counter(call.deployment for call in self._calls)
        pools = {name: table.pool(name) or () for name in table.deployments}
        everybody = not pools
        if everybody:
            pools = {EVERY_DEPLOYMENT: table.backends}
        classes = [cls.name for cls in config.priority_classes]
        # The highest class may be half open while all others are still kept out.
        usual = config.priority_class(None).name
        breaks = self._scheduler.breaks
        queues = {name: self._queue("" if everybody else name, classes) for name in pools}
        return [
            {
                "name": name,
                "pool": [backend.name for backend in pool],
                "available": sum(breaks.on(backend, self._now, usual) is None for backend in pool),
                "in_flight": (calling.total() if everybody else calling[name]) - queues[name]["waiting"],
                "line": queues[name],
            }
            for name, pool in pools.items()
        ]

    def _queue(self, name: str, classes: Iterable[str]) -> dict[str, Any]:
        requests = self._scheduler.waiting(name)
        lengths: dict[str, list[float]] = {}
        for request in requests:
            lengths.setdefault(request.cls.name, []).append(self._now - request.arrived)
        return {
            "waiting": len(requests),
            "longest_wait_seconds": _longest([self._now - request.arrived for request in requests]),
            "classes": [
                {
                    "priority": cls,
                    "waiting": len(lengths[cls]),
                    "longest_wait_seconds": _longest(lengths[cls]),
                }
                for cls in classes
                if cls in lengths
            ],
        }

    # --- credentials, and clients' identities ----------------------------------------------------------

    def _identities(self) -> dict[str, list[dict[str, Any]]]:
        gateway = self._gateway
        issuers = gateway.verifier.all() if gateway.verifier is not None else ()
        return {
            "credentials": [
                {**_state(renewal), "endpoints": endpoints, "seconds_left": _rounded(renewal.seconds_left, 1)}
                for renewal, endpoints in gateway.credentials.all()
            ],
            "issuers": [_state(renewal) for renewal in issuers],
            "expiring": list(self._expiring()),
        }

    def _expiring(self) -> Iterator[dict[str, Any]]:
        now = datetime.fromtimestamp(self._now + self._gateway.unix_offset, UTC)
        if self._gateway.written is not None:
            for what, end in self._gateway.written.expiring():
                if end <= now + SOON:
                    yield {"what": what, "end": end.isoformat(), "days": (end - now).days}


def _at(call: Call) -> Backend | None:
    """Return the backend that a call is at just now."""
    attempt = call.attempt
    return attempt.backend if attempt is not None and attempt.ended is None else None


def all_backends(written: Config) -> tuple[Backend, ...]:
    """Return the backends as written, those that are switched off too."""
    found: dict[object, Backend] = {}
    for endpoint in written.aoai.endpoints:
        standins = [standin for virtual in endpoint.virtual_deployments for standin in virtual.standins]
        for backend in map(
            Backend.of, (StandinAtEndpoint(endpoint, standin) for standin in standins or (None,))
        ):
            found.setdefault(backend.key, backend)
    return tuple(found.values())


def _off(switches: Switches, kind: Kind, name: str, enabled: bool) -> str | None:
    if not enabled:
        return "configuration"
    return BY_HAND if (kind, name) in switches else None


def _status(off: str | None, classes: list[dict[str, Any]]) -> str:
    if off is not None:
        return "off"
    if any(cls["break"] is not None for cls in classes):
        return "break"
    return "probation" if any(cls["on_probation"] for cls in classes) else "ok"


def _state(renewal: Renewal[Any]) -> dict[str, Any]:
    problem = f"{renewal.problem}. {renewal.remedy}" if renewal.problem else ""
    return {"name": renewal.name, "ok": renewal.value is not None, "problem": problem.rstrip(".")}


def _longest(waits: list[float]) -> float | None:
    return _rounded(max(waits, default=None), 1)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
